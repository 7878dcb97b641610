"""Dropout: what it draws, its gradient, and that training with it resumes exactly."""

import numpy as np
import pytest

from im2colx import nn


def model_of(*layers, input_shape=(6, 4), dtype="float64", seed=0):
    return nn.Sequential(list(layers), input_shape=input_shape, dtype=dtype, seed=seed)


def test_without_training_nothing_is_dropped():
    x = np.random.default_rng(0).standard_normal((3, 6, 4))
    assert np.array_equal(model_of(nn.Dropout(0.9)).forward(x), x)


@pytest.mark.parametrize("rate", [0, 0.2, 0.75])
def test_kept_elements_are_scaled_and_their_share_is_right(rate):
    y = model_of(nn.Dropout(rate), input_shape=(100, 100)).forward(np.ones((4, 100, 100)), training=True)
    assert set(np.unique(y)) <= {0, 1 / (1 - rate)}
    # 40000 draws: the share of kept ones has a standard deviation of at most 0.0025.
    assert np.mean(y > 0) == pytest.approx(1 - rate, abs=0.0125)


@pytest.mark.parametrize(("shared", "drawn"), [((), (3, 6, 4)), ((0,), (3, 1, 4)), ((1,), (3, 6, 1)), ((1, 0), (3, 1, 1))])
def test_shared_axes_have_one_draw(shared, drawn):
    y = model_of(nn.Dropout(0.5, shared=shared)).forward(np.ones((3, 6, 4)), training=True)
    first = y[tuple(slice(size) for size in drawn)]
    assert np.array_equal(y, np.broadcast_to(first, y.shape))
    varying = [axis for axis, size in enumerate(drawn) if size > 1]
    if len(varying) > 1:
        assert all(np.ptp(first, axis=axis).any() for axis in varying)


def test_gradient_is_that_of_the_draw():
    model = model_of(nn.Dropout(0.4, shared=(0,)))
    rng = np.random.default_rng(1)
    x, weighting = rng.standard_normal((2, 3, 6, 4))
    model.reseed(3)
    y = model.forward(x, training=True)
    np.testing.assert_allclose(model.backward(weighting) * x, weighting * y, rtol=1e-14)  # y is linear in each x
    assert model.layers[0].backward(weighting, input_gradient=False) is None


def test_float32_drops_what_float64_does():
    ones = np.ones((2, 6, 4))
    single, double = (model_of(nn.Dropout(0.5), dtype=dtype).forward(ones, training=True) for dtype in ("float32", "float64"))
    assert single.dtype == np.float32
    assert np.array_equal(single, double)


def test_weights_are_the_same_with_and_without():
    with_it = model_of(nn.Dense(5), nn.Dropout(0.5), nn.Dense(3), seed=4)
    without = model_of(nn.Dense(5), nn.Dense(3), seed=4)
    assert all(np.array_equal(a, b) for a, b in zip(with_it.get_weights(), without.get_weights(), strict=True))


def test_reseed_repeats_the_draws_of_each_layer_and_tells_layers_apart():
    model = model_of(nn.Dropout(0.5), nn.Dropout(0.5), input_shape=(200,))
    ones = np.ones((1, 200))

    def masks(*seed):
        model.reseed(*seed)
        return [layer.forward(ones, training=True) for layer in model.layers]

    first, second = masks(7, 1)
    assert not np.array_equal(first, second)
    assert all(np.array_equal(a, b) for a, b in zip(masks(7, 1), (first, second), strict=True))
    assert not np.array_equal(masks(7, 2)[0], first)
    assert not np.array_equal(masks(7)[0], first)


@pytest.mark.parametrize("shared", [(), (0,)])
def test_a_part_of_a_batch_gets_the_draws_of_that_part(shared):
    model = model_of(nn.Dropout(0.5, shared=shared))
    ones = np.ones((7, 6, 4))

    def drawn(begin, end):
        model.reseed(7)
        model.layers[0].skip_samples(begin)
        return model.forward(ones[begin:end], training=True)

    whole = drawn(0, 7)
    assert np.array_equal(whole, np.concatenate([drawn(0, 3), drawn(3, 4), drawn(4, 4), drawn(4, 7)]))
    drawn(0, 3), drawn(2, 3)
    assert np.array_equal(model.forward(ones[3:], training=True), whole[3:])  # it is said for one forward


def test_training_resumes_exactly(tmp_path):
    rng = np.random.default_rng(2)
    x, y = rng.random((50, 6)), rng.random((50, 2))

    def trained(epochs, checkpoint=None, resume=False):
        model = nn.Sequential([nn.Dense(8), nn.ReLU(), nn.Dropout(0.5), nn.Dense(2)], input_shape=(6,))
        trainer = nn.Trainer(model, nn.MSE(), nn.Adam())
        trainer.fit(x, y, epochs, 16, progress=False, checkpoint=checkpoint, resume=resume)
        return model.get_weights()

    unbroken = trained(4)
    trained(2, tmp_path / "part.npz")
    resumed = trained(4, tmp_path / "part.npz", resume=True)
    assert all(np.array_equal(a, b) for a, b in zip(unbroken, resumed, strict=True))


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: nn.Dropout(1), ValueError, "rate must be >= 0 and < 1, but is 1"),
    (lambda: nn.Dropout(-0.1), ValueError, "rate must be >= 0"),
    (lambda: nn.Dropout("half"), TypeError, "rate must be a number"),
    (lambda: nn.Dropout(0.5, shared=0), TypeError, "shared must be a tuple of axes, but is 0"),
    (lambda: nn.Dropout(0.5, shared=(-1,)), ValueError, r"shared\[0\] must be at least 0, but is -1"),
    (lambda: model_of(nn.Dropout(0.5, shared=(2,))), ValueError, r"layer 0 \(Dropout\): shared has the axis 2"),
    (lambda: model_of(nn.Dropout(0.5)).reseed(-1), ValueError, "seed must be at least 0, but is -1"),
    (lambda: model_of(nn.Dropout(0.5)).reseed(1, 0.5), TypeError, "seed must be a whole number"),
])
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_repr_names_what_a_checkpoint_must_match():
    assert repr(nn.Dropout(0.25, shared=(1, 0))) == "Dropout(0.25, shared=(0, 1))"


def test_a_batch_of_none():
    model = model_of(nn.Dropout(0.5, shared=(0,)))
    assert model.forward(np.empty((0, 6, 4)), training=True).shape == (0, 6, 4)
    assert model.backward(np.empty((0, 6, 4))).shape == (0, 6, 4)
