"""Sequential: shapes, the chain of gradients, weights in and out, and the equivalence of CONV and FC."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from im2colx import nn


def cnn(dtype="float64", seed=1):
    """The paper's network, small: every kind of layer in it."""
    return nn.Sequential(
        [nn.Conv2D(3, 2, stride=2), nn.ReLU(), nn.Flatten(), nn.Dense(12), nn.ReLU(), nn.Reshape((3, 4))],
        input_shape=(6, 5, 2), dtype=dtype, seed=seed)


def images(n=4, dtype=np.float64):
    return np.random.default_rng(8).standard_normal((n, 6, 5, 2)).astype(dtype)


def test_shapes_and_counts():
    model = cnn()
    assert model.input_shape == (6, 5, 2) and model.output_shape == (3, 4) and model.dtype == np.float64
    assert model.num_parameters == 2 * 2 * 2 * 3 + 3 + 18 * 12 + 12
    assert [name for name, _ in model.parameters()] == ["0.weight", "0.bias", "3.weight", "3.bias"]
    assert [name for name, _ in model.gradients()] == ["0.weight", "0.bias", "3.weight", "3.bias"]
    assert model.forward(images()).shape == (4, 3, 4)
    lines = model.summary().splitlines()
    assert len({len(line) for line in lines}) == 1 and lines[-1].endswith("255")
    assert "(3, 2, 3)" in lines[3] and lines[3].endswith(" 27")


def test_the_chain_s_gradients_are_the_slopes():
    model, x = cnn(), images()
    target = np.random.default_rng(9).standard_normal((4, 3, 4))
    _, grad_y = nn.MSE().value_and_grad(model.forward(x, training=True), target)
    grad_x = model.backward(grad_y)

    def loss():
        return nn.MSE().value(model.forward(x), target)

    arrays, gradients = [("x", x), *model.parameters()], [("x", grad_x), *model.gradients()]
    for (name, array), (_, grad) in zip(arrays, gradients, strict=True):
        direction = np.random.default_rng(10).standard_normal(array.shape)
        array += 1e-6 * direction
        above = loss()
        array -= 2e-6 * direction
        below = loss()
        array += 1e-6 * direction
        assert np.vdot(grad, direction) == pytest.approx((above - below) / 2e-6, rel=1e-5), name


def test_backward_without_input_gradient():
    # The first two layers have no weights, so nothing at all is to be done for them.
    model = nn.Sequential([nn.ReLU(), nn.Flatten(), nn.Dense(3), nn.ReLU()], input_shape=(2, 2))
    y = model.forward(np.ones((5, 2, 2)), training=True)
    model.backward(y)
    full = [grad.copy() for _, grad in model.gradients()]
    for _, grad in model.gradients():
        grad[...] = np.nan
    model.layers[0].backward = model.layers[1].backward = None
    asked, backward = [], model.layers[2].backward
    model.layers[2].backward = lambda grad_y, input_gradient: asked.append(input_gradient) or backward(grad_y, False)
    assert model.backward(y, input_gradient=False) is None and asked == [False]
    assert all(np.array_equal(grad, old) for (_, grad), old in zip(model.gradients(), full, strict=True))


def test_prediction_between_forward_and_backward_does_no_harm():
    model, x = cnn(), images()
    y = model.forward(x, training=True)
    model.backward(np.ones_like(y))
    expected = [grad.copy() for _, grad in model.gradients()]
    y = model.forward(x, training=True)
    model.predict(images(7) + 1)
    y[...] = -1  # the caller may do with the output what he likes
    model.backward(np.ones_like(y))
    assert all(np.array_equal(grad, old) for (_, grad), old in zip(model.gradients(), expected, strict=True))


def test_conv_is_fc_on_patches():
    """The paper's claim: outputs, and weights after a step of training, agree."""
    rng = np.random.default_rng(10)
    x = rng.standard_normal((5, 8, 8, 3))
    target = rng.standard_normal((5, 7))
    patches = sliding_window_view(x, (4, 4), axis=(1, 2))[:, ::2, ::2]  # (n, oh, ow, c, u, v)
    patches = patches.transpose(0, 1, 2, 4, 5, 3).reshape(5, 9, 48)

    def rest():
        return [nn.ReLU(), nn.Flatten(), nn.Dense(7), nn.ReLU()]

    conv = nn.Sequential([nn.Conv2D(6, 4, stride=2), *rest()], input_shape=(8, 8, 3), dtype="float64", seed=1)
    fc = nn.Sequential([nn.Dense(6), *rest()], input_shape=(9, 48), dtype="float64", seed=2)
    fc.set_weights([w.reshape(-1, 6) if w.ndim == 4 else w for w in conv.get_weights()])
    for step in range(2):
        gap = conv.forward(x) - fc.forward(patches)
        assert np.abs(gap).max() < 1e-12, step
        for model, batch in ((conv, x), (fc, patches)):
            _, grad = nn.MSE().value_and_grad(model.forward(batch, training=True), target)
            model.backward(grad, input_gradient=False)
            nn.SGD(lr=0.5).step(model.parameters(), model.gradients())
    for a, b in zip(conv.get_weights(), fc.get_weights(), strict=True):
        np.testing.assert_allclose(a.reshape(b.shape), b, rtol=0, atol=1e-12)


def test_a_conv_and_its_fc_start_alike_from_one_seed():
    conv = nn.Sequential([nn.Conv2D(6, 4, bias=False)], input_shape=(8, 8, 3), seed=5)
    fc = nn.Sequential([nn.Dense(6, bias=False)], input_shape=(25, 48), seed=5)
    assert np.array_equal(conv.get_weights()[0].reshape(48, 6), fc.get_weights()[0])


def test_the_seed_is_all_that_the_weights_depend_on():
    a, b, c = cnn(seed=1), cnn(seed=1), cnn(seed=2)
    assert all(np.array_equal(x, y) for x, y in zip(a.get_weights(), b.get_weights(), strict=True))
    assert not np.array_equal(a.get_weights()[0], c.get_weights()[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("given", [np.uint8, np.float16, np.float32, np.float64, ">f8", bool])
def test_any_real_input_is_brought_to_the_model_s_dtype(dtype, given):
    model = cnn(dtype)
    x = (images() > 0).astype(given)
    y = model.forward(x, training=True)
    assert y.dtype == dtype and model.backward(y.astype(np.float64)).dtype == dtype
    assert np.array_equal(y, model.forward(x.astype(dtype)))
    assert np.array_equal(y, model.forward(np.asfortranarray(x)))


@pytest.mark.parametrize("n", [0, 1, 4, 5])
def test_predict_is_forward_in_batches(n):
    model, x = cnn(), images(n)
    sizes = []
    forward = model.forward
    model.forward = lambda batch: sizes.append(len(batch)) or forward(batch)
    y = model.predict(x, batch_size=2)
    assert y.shape == (n, 3, 4) and sizes == [2, 2, 1][: n // 2] + [1] * (n % 2)
    np.testing.assert_allclose(y, forward(x), rtol=1e-12, atol=1e-14)


def test_weights_are_copied_in_and_out():
    model = cnn()
    weights = model.get_weights()
    weights[0][...] = 7
    assert not np.any(model.parameters()[0][1] == 7)
    model.set_weights(weights)
    weights[0][...] = 8
    assert np.all(model.layers[0].weight == 7)


def test_weights_that_do_not_fit_are_refused_and_nothing_changes():
    model = cnn()
    good, before = [w + 1 for w in model.get_weights()], model.get_weights()
    for bad, error, message in [
        (good[:3], ValueError, "weights has 3 arrays, but the model has 4: 0.weight, 0.bias, 3.weight, 3.bias"),
        ([*good[:2], good[2].T, good[3]], ValueError,
         r"3.weight \(Dense\) must have shape \(18, 12\), but have \(12, 18\)"),
        ([*good[:3], good[3].astype(np.float32)], TypeError,
         r"3.bias \(Dense\) must be an array of float64, but are float32"),
        ([*good[:3], list(good[3])], TypeError, r"3.bias \(Dense\) must be an array of float64, but are list"),
    ]:
        with pytest.raises(error, match=message):
            model.set_weights(bad)
    assert all(np.array_equal(x, y) for x, y in zip(model.get_weights(), before, strict=True))


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: nn.Sequential([], input_shape=(2,)), ValueError, "layers must have at least one layer"),
    (lambda: nn.Sequential(nn.ReLU(), input_shape=(2,)), TypeError, "layers must be a list of layers, but is of"),
    (lambda: nn.Sequential([nn.ReLU], input_shape=(2,)), TypeError, r"layers\[0\] must be a layer such as"),
    (lambda: nn.Sequential([nn.ReLU()] * 2, input_shape=(2,)), ValueError, r"layers\[1\] stands in the list twice"),
    (lambda: nn.Sequential([cnn().layers[0]], input_shape=(6, 5, 2)), ValueError,
     r"layers\[0\] already belongs to another model: Conv2D\(3"),
    (lambda: nn.Sequential([nn.ReLU()], input_shape=2), TypeError, "input_shape must be a tuple of whole"),
    (lambda: nn.Sequential([nn.ReLU()], input_shape=()), ValueError, "input_shape must have at least one entry"),
    (lambda: nn.Sequential([nn.ReLU()], input_shape=(2, 0)), ValueError, r"input_shape\[1\] must be at least 1"),
    (lambda: nn.Sequential([nn.ReLU()], input_shape=(2,), dtype="float16"), ValueError,
     "dtype must be float32 or float64, but is float16"),
    (lambda: nn.Sequential([nn.ReLU()], input_shape=(2,), dtype=None), TypeError, "dtype must be float32 or float64"),
    (lambda: nn.Sequential([nn.ReLU()], input_shape=(2,), seed=-1), ValueError, "seed must be at least 0, but is -1"),
    (lambda: nn.Sequential([nn.ReLU()], input_shape=(2,), seed=0.5), TypeError, "seed must be a whole number"),
    (lambda: nn.Sequential([nn.Flatten(), nn.Reshape((5, 5))], input_shape=(4, 6)), ValueError,
     r"layer 1 \(Reshape\): Reshape to \(5, 5\) needs 25 elements, but \(24,\) has 24"),
    (lambda: nn.Sequential([nn.Conv2D(1, 3)], input_shape=(28, 28)), ValueError,
     r"layer 0 \(Conv2D\): Conv2D takes samples of shape \(H, W, C\), but gets \(28, 28\)"),
    (lambda: nn.Sequential([nn.Conv2D(1, 3, layout="NCHW")], input_shape=(28,)), ValueError,
     r"\(C, H, W\), but gets \(28,\)"),
    (lambda: nn.Sequential([nn.ReLU(), nn.Conv2D(1, 9)], input_shape=(8, 8, 1)), ValueError, r"layer 1 \(Conv2D\): "),
    (lambda: nn.Sequential([nn.Conv2D(2, 3, groups=2)], input_shape=(8, 8, 3)), ValueError,
     "groups = 2 does not divide the 3 input channels"),
])
def test_bad_chains_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_chain_that_does_not_fit_leaves_its_layers_free():
    layers = [nn.Dense(3), nn.Reshape((4,))]
    with pytest.raises(ValueError, match="Reshape"):
        nn.Sequential(layers, input_shape=(2,))
    nn.Sequential(layers[:1], input_shape=(2,))


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda model: model.forward(np.zeros((4, 5, 5, 2))), ValueError,
     r"x has samples of shape \(5, 5, 2\), the model takes \(6, 5, 2\)"),
    (lambda model: model.forward(np.zeros((6, 5, 2))), ValueError, r"needs a batch axis: x\[np.newaxis\]"),
    (lambda model: model.predict(3.0), ValueError, "x has samples of shape"),
    (lambda model: model.forward(np.zeros((4, 6, 5, 2), complex)), TypeError, "x must hold real numbers, but has"),
    (lambda model: model.forward(np.zeros((4, 6, 5, 2), object)), TypeError, "x must hold real numbers, but has"),
    (lambda model: model.forward(np.ma.zeros((4, 6, 5, 2))), TypeError, "x is a masked array"),
    (lambda model: model.predict(images(), batch_size=0), ValueError, "batch_size must be at least 1, but is 0"),
    (lambda model: model.predict(images(), batch_size=2.0), TypeError, "batch_size must be a whole number, but is 2.0"),
    (lambda model: model.backward(np.zeros((4, 3, 4))), RuntimeError, r"backward needs a forward\(x, training=True\)"),
    (lambda model: (model.forward(images(), True), model.backward(np.zeros((3, 3, 4)))), ValueError,
     r"grad_y has shape \(3, 3, 4\), but the last output has \(4, 3, 4\)"),
])
def test_bad_calls_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(cnn())
