"""The short way of training, by gradients that are never whole, against the long one: with layers, losses, models of a user's."""

import copy
import pickle

import numpy as np
import pytest

from im2colx import nn
from im2colx.nn import _kernels as kernels


class Given(nn.Layer):
    """A user's layer: functions of x and of dL/dy, that may give arrays of any strides and dtype."""

    def __init__(self, forward, backward):
        self.functions = forward, backward

    def forward(self, x, training=False):
        return self.functions[0](x)

    def backward(self, grad_y, input_gradient=True):
        return self.functions[1](grad_y)


class GivenLoss(nn.MSE):
    """A user's loss, by its gradient."""

    def __init__(self, gradient):
        self.gradient = gradient

    def value_and_grad(self, prediction, target):
        return self.value(prediction, target), self.gradient(prediction, target)


class Clipped(nn.Dense):
    def gradients(self):
        return [(name, np.clip(gradient, -0.01, 0.01)) for name, gradient in super().gradients()]


class Halved(nn.Dense):
    @property
    def grad_weight(self):
        return nn.Dense.grad_weight.fget(self) * 0.5

    @grad_weight.setter
    def grad_weight(self, gradient):
        nn.Dense.grad_weight.fset(self, gradient)


class Frozen(nn.Dense):
    def __init__(self, units):
        super().__init__(units)
        self.weight_names = ("bias",)


class DecayedModel(nn.Sequential):
    def backward(self, grad_y, input_gradient=True):
        grad_x = super().backward(grad_y, input_gradient)
        for (_, gradient), (_, weight) in zip(self.gradients(), self.parameters(), strict=True):
            gradient += weight
        return grad_x


class ClippedModel(nn.Sequential):
    def gradients(self):
        return [(name, np.clip(gradient, -0.01, 0.01)) for name, gradient in super().gradients()]


def spread(array):
    """The same numbers, of which none are neighbours in memory."""
    return np.repeat(np.repeat(array, 2, axis=0), 3, axis=1)[::2, ::3]


def shifted(array):
    """The same numbers at addresses that are no multiples of their size."""
    memory = np.empty(array.nbytes + 1, np.uint8)
    copied = memory[1:].view(array.dtype).reshape(array.shape)
    copied[...] = array
    return copied


def mean_gradient(prediction, target):
    return np.broadcast_to(np.asarray(1 / prediction.size, prediction.dtype), prediction.shape)


SPREAD, UNALIGNED = (spread, spread), (shifted, shifted)
COLUMNS = (np.asfortranarray, np.asfortranarray)
REVERSED = (lambda x: x[:, ::-1], lambda grad_y: grad_y[:, ::-1])
# layers, loss, model
CASES = {
    "arrays_that_are_used_again": lambda: ([nn.Dense(8), nn.ReLU(), nn.Dense(8), nn.ReLU(), nn.Dense(8), nn.ReLU(), nn.Dense(5)],
                                           nn.MSE(), nn.Sequential),
    "layers_of_any_strides": lambda: ([nn.Dense(6), Given(*SPREAD), nn.Dense(5)], nn.MSE(), nn.Sequential),
    "layers_by_columns": lambda: ([Given(*COLUMNS), nn.Dense(6), Given(*COLUMNS), nn.Dense(5)], nn.MSE(), nn.Sequential),
    "layers_that_reverse": lambda: ([Given(*REVERSED), nn.Dense(6), Given(*REVERSED), nn.Dense(5)], nn.MSE(), nn.Sequential),
    "layers_without_alignment": lambda: ([Given(*UNALIGNED), nn.Dense(6), Given(*UNALIGNED), nn.Dense(5)], nn.MSE(),
                                         nn.Sequential),
    "wide_input": lambda: ([Given(np.float64, np.float32), nn.Dense(5), Given(np.float32, np.float32)], nn.MSE(), nn.Sequential),
    "wide_gradient": lambda: ([nn.Dense(6), Given(np.float32, np.float64), nn.Dense(5)], nn.MSE(), nn.Sequential),
    "loss_of_any_strides": lambda: ([nn.Dense(5)], GivenLoss(lambda p, t: spread(p - t)), nn.Sequential),
    "loss_that_broadcasts": lambda: ([nn.Dense(5)], GivenLoss(mean_gradient), nn.Sequential),
    "loss_in_float64": lambda: ([nn.Dense(5)], GivenLoss(lambda p, t: np.sign(p - t.astype(np.float64))), nn.Sequential),
    "loss_in_float64_of_a_convolution": lambda: ([nn.Reshape((2, 2, 2)), nn.Conv2D(5, 2), nn.Flatten()],
                                                 GivenLoss(lambda p, t: p - t.astype(np.float64)), nn.Sequential),
    "loss_of_lists": lambda: ([nn.Dense(5)], GivenLoss(lambda p, t: (p - t).tolist()), nn.Sequential),
    "gradients_of_a_subclass": lambda: ([Clipped(6), nn.ReLU(), Clipped(5)], nn.MSE(), nn.Sequential),
    "gradient_of_a_subclass": lambda: ([Halved(6), nn.ReLU(), Halved(5)], nn.MSE(), nn.Sequential),
    "frozen_weights": lambda: ([nn.Dense(6), Frozen(5)], nn.MSE(), nn.Sequential),
    "backward_of_a_model": lambda: ([nn.Dense(6), nn.Dense(5)], nn.MSE(), DecayedModel),
    "gradients_of_a_model": lambda: ([nn.Dense(6), nn.Dense(5)], nn.MSE(), ClippedModel),
}


@pytest.mark.parametrize("name", CASES)
def test_the_short_way_is_the_long_one(name):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((23, 8), np.float32), rng.standard_normal((23, 5), np.float32)
    models = []
    for is_long in (False, True):
        layers, loss, kind = CASES[name]()
        model, optimizer = kind(layers, input_shape=(8,)), nn.SGD(lr=0.05)
        before = model.get_weights()
        if is_long:
            step = optimizer.step
            optimizer.step = lambda parameters, gradients, step=step: step(parameters, gradients)  # one that wants arrays
        nn.Trainer(model, loss, optimizer).fit(x, y, 2, 10, progress=False)
        models.append(model)
    for (parameter, short), (_, long), start in zip(*(m.parameters() for m in models), before, strict=True):
        assert np.array_equal(short, long), parameter
        assert not np.array_equal(short, start), parameter


def test_the_bits_of_a_dense_layer_do_not_depend_on_strides():
    """2100 rows: where a product is cut into slices, the transposed one would be cut elsewhere."""
    rng = np.random.default_rng(2)
    x, grad_y = rng.standard_normal((2100, 300), np.float32), rng.standard_normal((2100, 20), np.float32)
    results = []
    for stored in (np.ascontiguousarray, np.asfortranarray, spread):
        model = nn.Sequential([nn.Dense(20)], input_shape=(300,))
        (layer,) = model.layers
        y = layer.forward(stored(x), training=True).copy()
        grad_x = layer.backward_late(stored(grad_y), True)
        nn.SGD().step(model.parameters(), model.late_gradients())
        results.append([y, grad_x, layer.weight, layer.grad_weight, layer.grad_bias])
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_gradient_of_a_wrong_shape_is_refused_before_any_weight_moves():
    model = nn.Sequential([nn.Dense(5)], input_shape=(8,))
    before = model.get_weights()
    trainer = nn.Trainer(model, GivenLoss(lambda p, t: (p - t).T), nn.SGD())
    with pytest.raises(ValueError, match=r"shape \(5, 4\), but the last output has \(4, 5\)"):
        trainer.fit(np.ones((4, 8)), np.ones((4, 5)), 1, progress=False)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))


def test_a_forward_that_fails_has_no_backward():
    def forward(x):
        if len(x) == 3:
            raise KeyboardInterrupt
        return x

    model = nn.Sequential([nn.Dense(4), nn.ReLU(), Given(forward, lambda grad_y: grad_y)], input_shape=(2,))
    model.forward(np.ones((5, 2)), training=True)
    with pytest.raises(KeyboardInterrupt):
        model.forward(np.ones((3, 2)), training=True)
    with pytest.raises(RuntimeError, match=r"backward needs a forward\(x, training=True\)"):
        model.backward(np.ones((5, 4)))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_trained_model_has_rooms_of_its_own_on_cache_lines(copied):
    model = nn.Sequential([nn.Conv2D(8, 3), nn.ReLU(), nn.Flatten(), nn.Dense(5)], input_shape=(9, 9, 2))
    trainer = nn.Trainer(model, nn.MSE(), nn.Adam())
    x, y = np.ones((11, 9, 9, 2)), np.ones((11, 5))
    trainer.fit(x, y, 1, progress=False)
    twin = copied(trainer)
    rooms = [trainer._room, twin._room, *(layer.room for t in (trainer, twin) for layer in t.model.layers)]
    for t in (trainer, twin):
        t.fit(x, y, 2, progress=False)
    for room in rooms:
        assert all(array.ctypes.data % kernels.LINE == 0 for array in room._arrays.values())
    assert trainer.history["train_loss"] == twin.history["train_loss"]
    for (name, a), (_, b) in zip(trainer.model.parameters(), twin.model.parameters(), strict=True):
        assert np.array_equal(a, b) and not np.may_share_memory(a, b), name


def test_what_a_model_without_weights_gives_is_not_its_input():
    x = np.ones((3, 4), np.float32)
    for layers in ([nn.Dropout(0.5)], [nn.Flatten()], [nn.Reshape((2, 2)), nn.Flatten()]):
        model = nn.Sequential(layers, input_shape=(4,))
        y = model.forward(x)
        y += 1
    assert np.all(x == 1)
