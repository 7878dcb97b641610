"""SGD and Adam, against a literal transcription of their equations, number by number."""

import math

import numpy as np
import pytest

from im2colx import nn

OPTIMIZERS = {
    "sgd": lambda: nn.SGD(lr=0.05),
    "momentum": lambda: nn.SGD(lr=0.05, momentum=0.9),
    "adam": lambda: nn.Adam(lr=0.01, beta1=0.8, beta2=0.95, eps=1e-6),
}


def sgd_by_definition(p, gradients, lr, momentum):
    v = 0.0
    for g in gradients:
        v = momentum * v - lr * g
        p = p + v
    return p


def adam_by_definition(p, gradients, lr, beta1, beta2, eps):
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        p = p - lr * math.sqrt(1 - beta2**t) / (1 - beta1**t) * m / (math.sqrt(v) + eps)
    return p


DEFINITIONS = {
    "sgd": lambda p, gradients: sgd_by_definition(p, gradients, 0.05, 0.0),
    "momentum": lambda p, gradients: sgd_by_definition(p, gradients, 0.05, 0.9),
    "adam": lambda p, gradients: adam_by_definition(p, gradients, 0.01, 0.8, 0.95, 1e-6),
}


def run(optimizer, shapes, steps=5, dtype=np.float64, seed=0):
    """Take steps from random weights along random gradients; return weights before, gradients, weights after."""
    rng = np.random.default_rng(seed)
    parameters = [(f"{i}.weight", rng.standard_normal(shape).astype(dtype)) for i, shape in enumerate(shapes)]
    before = [p.copy() for _, p in parameters]
    gradients = [[rng.standard_normal(shape).astype(dtype) for shape in shapes] for _ in range(steps)]
    for step in gradients:
        step[0].flat[0] = 0  # as where a ReLU is dead
        optimizer.step(parameters, [(name, g) for (name, _), g in zip(parameters, step, strict=True)])
    return before, gradients, [p for _, p in parameters]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_by_definition(name, dtype):
    before, gradients, after = run(OPTIMIZERS[name](), [(3, 4), (2,)], dtype=dtype)
    for i, p in enumerate(after):
        assert p.dtype == dtype
        for index in np.ndindex(p.shape):
            expected = DEFINITIONS[name](float(before[i][index]), [float(step[i][index]) for step in gradients])
            assert p[index] == pytest.approx(expected, rel=50 * float(np.finfo(dtype).eps), abs=50 * float(np.finfo(dtype).eps))


@pytest.mark.filterwarnings("error")
def test_overflow_gives_inf_without_a_warning():
    weight = np.ones(40, np.float32)
    nn.SGD(lr=1e10).step([("w", weight)], [("w", np.full(40, 1e30, np.float32))])
    assert np.all(weight == -np.inf)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_goes_on_to_the_bit(name):
    unbroken, first, second = (OPTIMIZERS[name]() for _ in range(3))
    parameters = [("w", np.ones((3, 2)))]
    gradients = [[("w", np.random.default_rng(i).standard_normal((3, 2)))] for i in range(6)]
    for step in gradients:
        unbroken.step(parameters, step)
    expected = parameters[0][1]

    parameters = [("w", np.ones((3, 2)))]
    for step in gradients[:3]:
        first.step(parameters, step)
    state = first.get_state()
    first.step([("w", np.ones((3, 2)))], gradients[5])  # must not reach into the state that was given out
    second.set_state(state)
    for step in gradients[3:]:
        second.step(parameters, step)
    assert np.array_equal(parameters[0][1], expected)
    assert second.get_state()["steps"] == 6 and state["steps"] == 3


def test_float32_state_is_float32():
    optimizer = nn.Adam()
    run(optimizer, [(3,)], dtype=np.float32)
    assert {array.dtype.name for name, array in optimizer.get_state().items() if name != "steps"} == {"float32"}


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: nn.SGD(lr=math.nan), ValueError, "lr must be > 0 and finite, but is nan"),
    (lambda: nn.SGD(lr=math.inf), ValueError, "lr must be > 0 and finite, but is inf"),
    (lambda: nn.SGD(lr=10**400), ValueError, "lr must be > 0 and finite"),
    (lambda: nn.SGD(lr=0), ValueError, "lr must be > 0 and finite, but is 0"),
    (lambda: nn.SGD(lr=-0.1), ValueError, "lr must be > 0 and finite, but is -0.1"),
    (lambda: nn.SGD(lr="fast"), TypeError, "lr must be a number, but is 'fast' of type str"),
    (lambda: nn.SGD(lr=True), TypeError, "lr must be a number, but is True of type bool"),
    (lambda: nn.SGD(momentum=1), ValueError, "momentum must be >= 0 and < 1, but is 1"),
    (lambda: nn.Adam(beta1=1.0), ValueError, "beta1 must be >= 0 and < 1, but is 1.0"),
    (lambda: nn.Adam(beta2=-0.5), ValueError, "beta2 must be >= 0 and < 1, but is -0.5"),
    (lambda: nn.Adam(eps=0), ValueError, "eps must be > 0 and finite, but is 0"),
    (lambda: nn.Adam(eps=None), TypeError, "eps must be a number, but is None"),
])
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_lists_that_do_not_fit_are_refused_and_nothing_moves():
    w, g = np.ones(3), np.ones(3)
    optimizer = nn.Adam()
    for gradients, message in [
        ([], "1 parameters, but 0 gradients"),
        ([("b", g)], "the gradient in its place is 'b'"),
        ([("w", g[:2])], r"shape \(3,\) and dtype float64, but the gradient in its place is 'w' with shape \(2,\)"),
        ([("w", g.astype(np.float32))], "dtype float32"),
        ([("w", np.ones(6)[::2])], "C-contiguous"),
    ]:
        with pytest.raises(ValueError, match=message):
            optimizer.step([("w", w)], gradients)
    assert np.array_equal(w, np.ones(3)) and optimizer.get_state() == {"steps": 0}


def test_one_optimizer_for_two_models_is_refused():
    optimizer = nn.SGD(momentum=0.5)
    optimizer.step([("w", np.ones(3))], [("w", np.ones(3))])
    with pytest.raises(ValueError, match=r"in the steps before it had \(3,\) and float64: give each model its own"):
        optimizer.step([("w", np.ones(4))], [("w", np.ones(4))])


@pytest.mark.parametrize(("state", "error"), [
    ({}, TypeError), ({"steps": -1}, ValueError), ({"steps": 1, "w.other": np.ones(3)}, ValueError),
    ({"steps": 1, "w.m": [1.0]}, ValueError),
])
def test_bad_state_is_refused_and_nothing_changes(state, error):
    optimizer = nn.Adam()
    run(optimizer, [(3,)], steps=2)
    with pytest.raises(error, match="state"):
        optimizer.set_state(state)
    assert optimizer.get_state()["steps"] == 2 and len(optimizer.get_state()) == 3


def test_momentum_may_be_given_later():
    rng = np.random.default_rng(4)
    start, gradients = rng.standard_normal(5), rng.standard_normal((4, 5))
    later, expected, velocity = start.copy(), start.copy(), np.zeros(5)
    sgd = nn.SGD(lr=0.1)
    for t, gradient in enumerate(gradients):
        sgd.momentum = 0.0 if t < 2 else 0.9
        sgd.step([("weight", later)], [("weight", gradient)])
        velocity = (0.9 * velocity - 0.1 * gradient) if t >= 2 else velocity
        expected += velocity if t >= 2 else -0.1 * gradient
    np.testing.assert_allclose(later, expected, rtol=1e-14)
