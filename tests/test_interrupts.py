"""Ctrl-C in the long calls that Python and C share out in pieces; and that the pieces make the whole."""

import signal
import time

import numpy as np
import pytest
from interrupts import ALLOWED, latencies

import im2colx
from im2colx import PatchMatrix, conv_matrix, im2col, matrix, patch_matrix

X = np.ones((4, 64, 224, 224), "f4")


def long_calls():
    phi = PatchMatrix(X, 3, pad=1)
    last = PatchMatrix(X.reshape(4, 224, 224, 64), 3, pad=1, layout="NHWC")
    pairs = np.arange(phi.shape[0]).repeat(20), np.arange(20 * phi.shape[0]) % 576
    weights = np.ones((64, 1, 1, 1), "f4")
    return {
        "rows": lambda: phi[::2],
        "columns": lambda: phi[:, ::7],
        "rows, channels last": lambda: last[::2],
        "pairs": lambda: phi[pairs],
        "mean": lambda: phi.mean(),
        "column": lambda: PatchMatrix(X.reshape(64, 1, 896, 224), 3, pad=1).column(3),
        "csr": lambda: conv_matrix(np.ones((64, 16, 3, 3), "f4"), (16, 112, 112), pad=1),
        "csr of many rows": lambda: conv_matrix(weights, (1, 1000, 1000)),
        "dense": lambda: conv_matrix(np.ones((16, 8, 3, 3), "f4"), (8, 32, 32), pad=1, format="dense"),
    }


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX signals")
@pytest.mark.parametrize("name", long_calls())
def test_ctrl_c_within_200_ms(name):
    call = long_calls()[name]
    call()
    start = time.perf_counter()
    call()
    taken = time.perf_counter() - start
    found = latencies(call, [taken * share for share in (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7)])
    assert found and max(found) < ALLOWED, found


@pytest.fixture
def small_pieces(monkeypatch):
    for module in (patch_matrix, matrix):
        monkeypatch.setattr(module, "AT_ONCE", 5)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_pieces_make_the_whole(small_pieces, layout):
    rng = np.random.default_rng(5)
    x = rng.standard_normal((2, 3, 5, 4) if layout == "NCHW" else (2, 5, 4, 3))
    phi, stored = (make(x, (3, 2), pad=1, layout=layout) for make in (PatchMatrix, im2col))
    height, width = stored.shape
    rows, columns = rng.integers(-height, height, 17), rng.integers(-width, width, 17)
    keys = [
        slice(None), slice(None, None, -2), 3, -1, rows, stored[:, 0] > 0, (slice(2, 40, 3), columns), (rows, slice(None, None, -1)),
        (rows, columns), (rows, 2), (4, columns), ([3], columns), (rows, [1]), (-1, -1), (slice(0), 2), ([], columns[:0]),
    ]  # fmt: skip
    for key in keys:
        found = phi[key]
        np.testing.assert_array_equal(found, stored[key])
        assert type(found) is type(stored[key])
    for column in range(width):
        np.testing.assert_array_equal(phi.column(column), stored[:, column])
    np.testing.assert_allclose(phi.mean(), stored.mean(0), rtol=1e-13, atol=1e-15)
    w = rng.standard_normal((2, 3, 3, 3))
    explicit = conv_matrix(w, (3, 6, 5), pad=1)
    np.testing.assert_array_equal(conv_matrix(w, (3, 6, 5), pad=1, format="dense"), explicit.toarray())


def test_length_before_content():
    """Sequences that are too long are refused unread: nothing of them is copied or shown in full."""

    class Long(list):
        def __iter__(self):
            raise AssertionError("it was read")

        def __len__(self):
            return 2**40

    phi = PatchMatrix(np.ones((4, 4)), 2)
    for at in (range(2**26), Long([1]), np.broadcast_to(0, 2**40)):
        with pytest.raises(ValueError, match="at is .*, but must be"):
            im2colx.explain((1, 1, 4, 4), (1, 1, 2, 2), at=at)
    with pytest.raises(ValueError, match="x"):
        im2colx.explain([1] * 10**6, (1, 1, 2, 2))
    with pytest.raises(IndexError, match="Φ has two axes, but 1000000 selections were given"):
        phi[(0,) * 10**6]


def test_what_a_signal_handler_raises_is_not_the_dtypes_fault():
    class Late:
        @property
        def dtype(self):
            raise TimeoutError("in the handler")

    with pytest.raises(TimeoutError, match="in the handler"):
        im2colx.explain((1, 1, 4, 4), (1, 1, 2, 2), dtype=Late())
