"""The kernels of training: products, steps and the rectifier, against NumPy; and the memory that a step takes."""

import concurrent.futures
import contextlib
import copy
import itertools
import tracemalloc

import numpy as np
import pytest

import im2colx
from im2colx import _core, nn
from im2colx.nn import _kernels as kernels

# m, k, n: around the sizes of tiles and vectors, bands (96 and 256 rows), pieces (at most 512) and slices (1024) of the sum,
# both in a packed operand, and the empty.
PRODUCTS = [(1, 1, 1), (6, 5, 16), (7, 13, 65), (128, 300, 100), (97, 3, 784), (300, 140, 33), (5, 2100, 40), (600, 9, 128),
            (256, 30, 33), (20, 700, 64), (300, 2100, 33), (4, 700, 250), (5, 2100, 128), (3, 0, 4), (0, 3, 4), (3, 4, 0)]  # fmt: skip
STEPS = {
    "sgd": lambda: nn.SGD(lr=0.05),
    "momentum": lambda: nn.SGD(lr=0.05, momentum=0.9),
    "adam": lambda: nn.Adam(lr=0.01, beta1=0.8, beta2=0.95, eps=1e-6),
}


@pytest.fixture(params=_core.instruction_sets())
def isa(request):
    before = _core.isa()
    _core.set_isa(request.param)
    yield request.param
    _core.set_isa(before)


@contextlib.contextmanager
def threads(count):
    before = im2colx.get_num_threads()
    im2colx.set_num_threads(count)
    yield
    im2colx.set_num_threads(before)


def operands(shape, dtype, transposed, draw):
    (m, k, n), (ta, tb) = shape, transposed
    a, b = draw((k, m) if ta else (m, k)).astype(dtype), draw((n, k) if tb else (k, n)).astype(dtype)
    return a.T if ta else a, b.T if tb else b


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", PRODUCTS)
def test_products_of_small_integers_are_exact(shape, dtype, isa):
    rng = np.random.default_rng(1)
    for transposed in itertools.product((False, True), repeat=2):
        a, b = operands(shape, dtype, transposed, lambda size: rng.integers(-4, 5, size))
        memory = np.full((shape[0] + 2, shape[2]), np.nan, dtype)  # a row before and one behind are not ours
        out = memory[1:-1]
        kernels.matmul(a, b, out, kernels.Room())
        assert np.array_equal(out, a @ b), transposed
        assert np.isnan(memory[[0, -1]]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_round_as_a_sum_does_and_alike_on_any_threads(dtype):
    rng = np.random.default_rng(2)
    for shape in PRODUCTS:
        a, b = operands(shape, dtype, (False, False), rng.standard_normal)
        results = []
        for count in (1, 2, 5):
            with threads(count):
                results.append(kernels.matmul(a, b, np.empty((shape[0], shape[2]), dtype)))
        assert len({result.tobytes() for result in results}) == 1, shape
        # Each sum of k products is off by at most k roundings of the sum of their absolute values.
        exact, scale = a.astype(np.longdouble) @ b.astype(np.longdouble), np.abs(a) @ np.abs(b)
        assert np.all(np.abs(results[0] - exact) <= shape[1] * np.finfo(dtype).eps * scale)


def test_one_row_or_column_may_lie_anywhere(isa):
    memory = np.arange(35.0).reshape(5, 7)
    columns = memory[:, 3:4], memory.T[:, 1:2], memory.T[::-2, 1:2]  # the last without a stride of 1
    for a, b in itertools.product(columns, (memory[2:3], memory.T[2:3], memory[2:3, ::2])):
        out = np.empty((a.shape[0], b.shape[1]))
        _core.gemm(a, b, out, 1)
        assert np.array_equal(out, a @ b)
        out = np.empty((1, 1))
        _core.gemm(a.T, np.ones(a.shape), out, 1)
        assert out == a.sum()


def test_what_c_does_not_take_goes_to_numpy():
    a, b = np.ones((4, 6), np.float32)[:, ::2], np.ones((3, 2))
    assert np.array_equal(kernels.matmul(a, b, np.empty((4, 2))), np.full((4, 2), 3))
    assert not kernels.suits(np.ones(3, np.int32)) and not kernels.suits(np.ones(3, ">f4"))
    assert not kernels.suits(np.ones(3), np.ones(3, np.float32)) and not kernels.suits(np.ones(6)[::2])


def by_numpy(optimizer, p, gradients):
    """Steps by the rule in NumPy: the parameter, followed by its slots."""
    arrays = [p.copy(), *(np.zeros_like(p) for _ in optimizer.slots)]
    for optimizer.steps, g in enumerate(gradients, 1):
        optimizer._update(arrays[0], g, *arrays[1:])
    return arrays


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("size", [1, 15, 33, 50_000, 16_385])  # alone, without and with whole vectors, several tasks, one over
def test_steps_in_c_are_those_in_numpy(name, size, dtype, isa):
    rng = np.random.default_rng(3)
    p, gradients = rng.standard_normal(size).astype(dtype), rng.standard_normal((4, size)).astype(dtype)
    if size > 1:
        gradients[:, 0], gradients[1, 1:4], gradients[2, 4:7], p[7:9] = 0, [np.nan, np.inf, -np.inf], 1e38, [np.inf, -0.0]
    with np.errstate(all="ignore"):
        expected = by_numpy(STEPS[name](), p, gradients)
    for count in (1, 3):
        optimizer, moved = STEPS[name](), p.copy()
        with threads(count):
            for g in gradients:
                optimizer.step([("w", moved)], [("w", g)])
        state = optimizer.get_state()
        got = [moved, *(state[f"w.{slot}"] for slot in optimizer.slots)]
        # gcc rounds every product and sum, as NumPy does; other compilers may contract some, in each of four steps.
        tolerance = 0 if _core.compiler().startswith("gcc") else 16 * np.finfo(dtype).eps
        for array, reference in zip(got, expected, strict=True):
            np.testing.assert_allclose(array, reference, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", STEPS)
def test_other_dtypes_take_the_step_in_numpy(name):
    p = np.ones(5, np.float16)
    STEPS[name]().step([("w", p)], [("w", np.full(5, 0.5, np.float16))])
    assert p.dtype == np.float16 and np.all(p < 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("shape", [(300, 20, 33), (16, 2100, 128), (7, 5, 3)])  # bands; a sum in slices; one tile
def test_a_step_along_a_product_is_the_step_along_its_value(shape, name, dtype, isa):
    rng = np.random.default_rng(4)
    (m, k, n), stored, late = shape, STEPS[name](), STEPS[name]()
    p, q = (np.ones((m, n), dtype) for _ in range(2))
    for _ in range(2):
        a, b = rng.standard_normal((k, m)).astype(dtype).T, rng.standard_normal((k, n)).astype(dtype)
        product = kernels.Product(a, b, kernels.Room(), b.dtype)
        stored.step([("w", p)], [("w", product.into(np.empty((m, n), dtype)))])
        late.step([("w", q)], [("w", product)])
    assert p.tobytes() == q.tobytes() and not np.any(p == 1)
    for slot in stored.slots:
        assert np.array_equal(stored.get_state()[f"w.{slot}"], late.get_state()[f"w.{slot}"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(300, 20, 33), (7, 2100, 21), (1, 5, 64), (6, 0, 7)])
def test_a_step_along_a_product_with_either_factor_transposed(shape, dtype, isa):
    rng = np.random.default_rng(9)
    for transposed in itertools.product((False, True), repeat=2):
        a, b = operands(shape, dtype, transposed, lambda size: rng.integers(-4, 5, size))
        p = np.ones((shape[0], shape[2]), dtype)
        nn.SGD(lr=0.25).step([("w", p)], [("w", kernels.Product(a, b, kernels.Room(), p.dtype))])
        assert np.array_equal(p, 1 - 0.25 * (a @ b)), transposed


@pytest.mark.parametrize("dtype", ["float32", "float64", ">f8", "int64"])
def test_the_rectifier(dtype, isa):
    x = (np.arange(-40_000, 40_000) / 8).astype(dtype)
    if dtype != "int64":
        x[[100, 50_000, 79_999]] = np.inf, -np.inf, -0.0
        y = x.copy()
        y[60_000] = np.nan
        kernels.relu(y, y)
        assert np.isnan(y[60_000]) and y[50_000] == 0 and not np.isnan(y[:60_000]).any()
    y = np.empty_like(x)
    kernels.relu(x, y)
    assert np.array_equal(y, np.maximum(x, 0))
    g = np.arange(80_000).astype(dtype)
    expected = g * (x > 0)
    kernels.relu_gradient(y, g, g)
    assert np.array_equal(g, expected)
    kernels.relu(x, x)
    assert np.array_equal(x, y)


def test_a_room_keeps_its_memory_while_that_serves():
    room = kernels.Room()
    first = room("y", (4, 5), np.float32)
    assert first.shape == (4, 5) and np.shares_memory(room("y", (19,), np.float32), first)
    assert not any(np.shares_memory(array, first) for array in (room("x", (4, 5), np.float32), room("y", (20,), np.float64)))
    assert room("y", (3,), np.float32).dtype == np.float32 and room("y", (5, 5), np.float32).shape == (5, 5)


def network(dtype="float32", seed=1):
    return nn.Sequential([nn.Conv2D(32, 3), nn.ReLU(), nn.ReLU(), nn.Flatten(), nn.Dense(20), nn.Reshape((4, 5))],
                         input_shape=(18, 18, 2), dtype=dtype, seed=seed)  # fmt: skip


def test_layers_work_in_place_only_on_arrays_of_the_layers_before():
    flags = [(layer.may_overwrite_x, layer.may_overwrite_grad_y) for layer in network().layers]
    assert flags == [(False, True), (True, True), (True, True), (True, True), (True, False), (True, False)]

    class Doubled(nn.Layer):
        def forward(self, x, training=False):
            return x

        def backward(self, grad_y, input_gradient=True):
            return grad_y

    model = nn.Sequential([nn.Dense(3), Doubled(), nn.ReLU(), Doubled(), nn.Dense(2)], input_shape=(4,))
    assert [layer.may_overwrite_x for layer in model.layers] == [False, True, False, True, False]
    assert not model.layers[2].may_overwrite_grad_y


def test_a_subclass_has_its_own_backward_and_keeps_its_arrays():
    class Decayed(nn.Dense):
        def backward(self, grad_y, input_gradient=True):
            grad_x = super().backward(grad_y, input_gradient)
            self.grad_weight += 0.5 * self.weight
            return grad_x

    model = nn.Sequential([Decayed(3, bias=False), nn.ReLU()], input_shape=(4,), dtype="float64")
    expected = 0.9 * model.layers[0].weight  # no gradient but the decay's: p -= 0.2 * p / 2
    nn.Trainer(model, nn.MSE(), nn.SGD(lr=0.2)).fit(np.zeros((5, 4)), np.zeros((5, 3)), 1, progress=False)
    np.testing.assert_allclose(model.layers[0].weight, expected, rtol=1e-15)
    assert not model.layers[1].may_overwrite_x


def test_what_the_model_gives_out_stays():
    model, rng = network("float64"), np.random.default_rng(5)
    x, other = rng.standard_normal((2, 3, 18, 18, 2))
    y = model.forward(x, training=True)
    grad_x = model.backward(np.ones_like(y))
    kept = y.copy(), grad_x.copy()
    model.backward(np.ones_like(model.forward(other, training=True)))
    assert np.array_equal(y, kept[0]) and np.array_equal(grad_x, kept[1])


LAST = {
    "dense": lambda: [nn.Flatten(), nn.Dense(7)],
    "conv": lambda: [nn.Conv2D(3, 2)],
    "relu": lambda: [nn.ReLU()],
    "relu_in_place": lambda: [nn.Conv2D(3, 2), nn.ReLU()],
}


@pytest.mark.parametrize("name", LAST)
def test_predictions_are_arrays_of_their_own_in_every_thread(name):
    model = nn.Sequential(LAST[name](), input_shape=(9, 8, 2))
    x = np.random.default_rng(10).standard_normal((6, 11, 9, 8, 2), np.float32)
    expected = [model.forward(batch, training=True) for batch in x]
    got = [model.forward(batch) for batch in x]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for predicted in (got, *pool.map(lambda _: [model.forward(batch) for batch in x], range(24))):
            assert all(np.array_equal(a, b) for a, b in zip(predicted, expected, strict=True))


@pytest.mark.parametrize("name", STEPS)
def test_training_with_late_gradients_is_training(name):
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((10, 18, 18, 2)), rng.standard_normal((10, 4, 5))
    late, early = (nn.Trainer(network(), nn.MSE(), STEPS[name]()) for _ in range(2))
    step = early.optimizer.step
    early.optimizer.step = lambda parameters, gradients: step(parameters, gradients)  # one that wants arrays
    for trainer in (late, early):
        trainer.fit(x, y, 2, 4, progress=False)
    assert late.history["train_loss"] == early.history["train_loss"]
    for (parameter, a), (_, b) in zip(late.model.parameters(), early.model.parameters(), strict=True):
        assert np.array_equal(a, b), parameter
    # Asked for, the gradients of the last step are there.
    for (parameter, a), (_, b) in zip(late.model.gradients(), early.model.gradients(), strict=True):
        assert np.array_equal(a, b) and a.any(), parameter


def test_training_gives_the_same_bits_on_any_threads():
    rng = np.random.default_rng(7)
    x, y = rng.standard_normal((10, 18, 18, 2)), rng.standard_normal((10, 4, 5))
    weights = []
    for count in (1, 3):
        with threads(count):
            trainer = nn.Trainer(network(), nn.MSE(), nn.Adam())
            trainer.fit(x, y, 2, 4, progress=False)
        weights.append(b"".join(w.tobytes() for w in trainer.model.get_weights()))
    assert weights[0] == weights[1]


@pytest.mark.parametrize("name", STEPS)
def test_a_step_allocates_nothing_large_after_the_first(name):
    rng = np.random.default_rng(8)
    x, y = rng.standard_normal((40, 18, 18, 2), dtype=np.float32), rng.standard_normal((40, 4, 5), dtype=np.float32)
    trainer = nn.Trainer(network(), nn.MSE(), STEPS[name]())
    trainer.fit(x, y, 1, 40, progress=False)
    tracemalloc.start()
    try:
        trainer.fit(x, y, 1, 40, progress=False)
        trainer.fit(x[:30], y[:30], 1, 40, progress=False)  # a smaller batch finds room in what is there
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # An activation of layer 1 has 1.3 MB, the large weight 0.66 MB; what remains are the loss's arrays of a few KB.
    assert peak < 100_000


def test_weights_and_state_begin_on_cache_lines():
    trainer = nn.Trainer(network(), nn.MSE(), nn.Adam())
    trainer.fit(np.ones((2, 18, 18, 2)), np.ones((2, 4, 5)), 1, progress=False)
    trainer.optimizer.set_state(trainer.optimizer.get_state())
    arrays = [trainer.model.layers[0].weight, trainer.model.layers[4].weight, *trainer.optimizer._state.values()]
    assert all(array.ctypes.data % 64 == 0 for array in arrays)


def test_a_model_can_be_copied():
    model = network()
    x = np.ones((2, 18, 18, 2))
    model.backward(model.forward(x, training=True))
    twin = copy.deepcopy(model)
    assert np.array_equal(twin.forward(x), model.forward(x))
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(twin.gradients(), model.gradients(), strict=True))
