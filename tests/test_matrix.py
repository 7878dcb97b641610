"""conv_matrix in its three formats against the definition written out, and as an operator against its adjoint."""

import json
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.sparse.linalg
from cases import CASES, FLOATS, INTEGERS, LAYOUTS, random_case, small_integers
from scipy.sparse import csr_array

import im2colx
from im2colx import ConvOperator, _memory, _reference, conv2d, conv_matrix

DTYPES = ("float64", "float32", "complex128", "int8", "complex64", "int64", "float16")


def cases(count, seed):
    rng = np.random.default_rng(seed)
    return [*CASES, *(random_case(rng) for _ in range(count))]


def image(case, layout):
    return case.x_shape(layout)[1:]


def weights(rng, case, layout, dtype):
    return small_integers(rng, case.w_shape(layout), dtype)


@pytest.mark.parametrize("boundary", ["zero", "circular"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_formats_are_the_definition(layout, boundary):
    """500 random geometries over both layouts; small integers, so nothing is rounded."""
    rng = np.random.default_rng(0)
    for number, case in enumerate(cases(250 if boundary == "zero" else 100, 1 if layout == "NCHW" else 2)):
        if boundary == "circular" and 0 in (case.h, case.w):
            continue
        w = weights(rng, case, layout, DTYPES[number % len(DTYPES)])
        arguments = (w, image(case, layout), *case.geometry)
        named = {"layout": layout, "boundary": boundary}
        expected = _reference.conv_matrix(
            w.astype(np.result_type(w.dtype, "i4") if w.dtype.kind in "iu" else w.dtype), (1, *image(case, layout)), *case.geometry,
            layout, boundary == "circular",
        )  # fmt: skip
        csr = conv_matrix(*arguments, **named)
        assert isinstance(csr, csr_array) and csr.shape == expected.shape
        assert csr.dtype == {"int8": np.int32, "float16": np.float32}.get(w.dtype.name, w.dtype)
        assert csr.indices.dtype == csr.indptr.dtype == np.int32
        for row in range(csr.shape[0]):
            columns = csr.indices[csr.indptr[row] : csr.indptr[row + 1]]
            assert (np.diff(columns) > 0).all()
        np.testing.assert_array_equal(csr.toarray(), expected)
        dense = conv_matrix(*arguments, format="dense", **named)
        assert dense.dtype == csr.dtype
        np.testing.assert_array_equal(dense, expected)
        operator = conv_matrix(*arguments, format="operator", **named)
        assert operator.shape == expected.shape and operator.dtype == csr.dtype
        x = small_integers(rng, (expected.shape[1], 2), w.dtype if w.dtype.kind == "c" else "float64")
        y = small_integers(rng, (expected.shape[0], 3), x.dtype)
        np.testing.assert_array_equal(operator @ x, expected @ x)
        np.testing.assert_array_equal(operator @ x[:, 0], expected @ x[:, 0])
        np.testing.assert_array_equal(operator.rmatmat(y), expected.conj().T @ y)
        np.testing.assert_array_equal(operator.rmatvec(y[:, 1]), expected.conj().T @ y[:, 1])


@pytest.mark.parametrize("boundary", ["zero", "circular"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_operator_and_its_adjoint(dtype, boundary):
    """<A x, y> = <x, A^H y>; T does not conjugate."""
    rng = np.random.default_rng(3)
    for case in cases(30, 4):
        if boundary == "circular" and 0 in (case.h, case.w):
            continue
        w = weights(rng, case, "NCHW", dtype)
        operator = ConvOperator(w, image(case, "NCHW"), *case.geometry, boundary=boundary)
        x, y = (small_integers(rng, size, dtype) for size in operator.shape[::-1])
        assert np.vdot(y, operator @ x) == np.vdot(operator.H @ y, x)
        np.testing.assert_array_equal(operator.T @ y, (operator.H @ y.conj()).conj())
        np.testing.assert_array_equal(operator.H @ y[:, None], (operator.H @ y)[:, None])
        np.testing.assert_array_equal(operator.adjoint() @ y, operator.H @ y)
        assert (operator @ x).dtype == dtype


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_and_columns_are_those_of_conv2d(layout):
    rng = np.random.default_rng(5)
    for case in cases(30, 6):
        x = small_integers(rng, case.x_shape(layout), "float64")
        w = weights(rng, case, layout, "float64")
        y = conv2d(x, w, *case.geometry, layout=layout)
        matrix = conv_matrix(w, x.shape, *case.geometry, layout=layout)  # with the batch axis
        operator = ConvOperator(w, x.shape, *case.geometry, layout=layout)
        assert (operator.x_shape, operator.y_shape) == (x.shape[1:], y.shape[1:])
        for one_x, one_y in zip(x, y, strict=True):
            np.testing.assert_array_equal(matrix @ one_x.ravel(), one_y.ravel())
        np.testing.assert_array_equal(operator._forward(x.reshape(len(x), -1)), y.reshape(len(x), -1))


def test_channels_last_is_the_same_matrix_in_another_order():
    w = np.random.default_rng(7).standard_normal((4, 3, 2, 3))
    first = conv_matrix(w, (3, 5, 6), 2, 1, format="dense").reshape(4, -1, 3, 30)
    last = conv_matrix(w.transpose(2, 3, 1, 0), (5, 6, 3), 2, 1, layout="NHWC", format="dense")
    np.testing.assert_array_equal(first.transpose(1, 0, 3, 2).reshape(last.shape), last)


def test_planes_and_words_of_padding():
    x, w = np.arange(30.0).reshape(5, 6), np.arange(6.0).reshape(2, 3)
    for pad in ("same", "half", "full", "valid", ((1, 0), (0, 2))):
        for layout in LAYOUTS:
            y = conv2d(x, w, 2, pad, layout=layout)
            np.testing.assert_array_equal(conv_matrix(w, (5, 6), 2, pad, layout=layout) @ x.ravel(), y.ravel())
            assert ConvOperator(w, (5, 6), 2, pad, layout=layout).y_shape == y.shape


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers(dtype):
    w = np.ones((1, 1, 2, 2), dtype)
    small = np.dtype(dtype).itemsize <= 2
    for format in ("csr", "dense"):
        matrix = conv_matrix(w, (1, 2, 3), format=format)
        assert matrix.dtype == (np.int32 if small else np.int64)
        np.testing.assert_array_equal(matrix @ np.arange(6), [8, 12])
    operator = conv_matrix(w, (1, 2, 3), format="operator")
    np.testing.assert_array_equal(operator @ np.arange(6, dtype=dtype if dtype != "bool" else "i1"), [8, 12])


def test_unsigned_weights_that_do_not_fit_are_refused():
    with pytest.raises(OverflowError, match="w holds 18446744073709551615"):
        conv_matrix(np.full((1, 1), 2**64 - 1, "u8"), (2, 2))


def test_weights_are_copied_and_explicit_zeros_kept():
    w = np.zeros((1, 1, 2, 2))
    operator = ConvOperator(w, (1, 3, 3))
    assert operator.tocsr().nnz == 16
    w[:] = 1
    assert not (operator @ np.ones(9)).any()


def test_images_without_pixels():
    w = np.ones((2, 3, 2, 2))
    operator = ConvOperator(w, (3, 0, 4), pad=1)
    assert operator.shape == (2 * 1 * 5, 0)
    assert operator.tocsr().nnz == 0 and operator.toarray().shape == (10, 0)
    np.testing.assert_array_equal(operator @ np.ones(0), np.zeros(10))
    assert (operator.H @ np.ones(10)).shape == (0,)
    assert operator.spectral_norm() == 0
    with pytest.raises(ValueError, match="cannot be continued periodically"):
        ConvOperator(w, (3, 0, 4), pad=1, boundary="circular")


def test_many_threads_give_the_same_matrix():
    before = im2colx.get_num_threads()
    w = np.random.default_rng(7).standard_normal((16, 8, 3, 3))
    try:
        matrices = []
        for threads in (1, 3):
            im2colx.set_num_threads(threads)
            matrices.append([conv_matrix(w, (8, 24, 25), 1, 1), conv_matrix(w.transpose(2, 3, 1, 0), (24, 25, 8), 1, 1, layout="NHWC")])
        for one, three in zip(*matrices, strict=True):
            for part in ("data", "indices", "indptr"):
                np.testing.assert_array_equal(getattr(one, part), getattr(three, part))
    finally:
        im2colx.set_num_threads(before)


def test_wide_indices(monkeypatch):
    """Those of matrices with 2**31 entries or columns, without such a matrix."""
    w = np.random.default_rng(8).standard_normal((3, 2, 2, 3))
    narrow = conv_matrix(w, (2, 5, 6), 2, 1)
    operator = ConvOperator(w, (2, 5, 6), 2, 1)
    entries, _ = operator._csr_sizes()
    monkeypatch.setattr(ConvOperator, "_csr_sizes", lambda self: (entries, np.int64))
    wide = operator.tocsr()
    assert (wide != narrow).nnz == 0
    monkeypatch.undo()
    large = ConvOperator(np.ones((64, 64, 3, 3), "f4"), (64, 400, 400), pad=1)
    entries, index = large._csr_sizes()
    assert entries == 64 * 64 * 1198**2 > 2**31 and index == np.int64


def test_operators_can_be_pickled():
    operator = ConvOperator(np.arange(8.0).reshape(1, 2, 2, 2), (2, 3, 4), boundary="circular")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(operator)) @ np.arange(24), operator @ np.arange(24))


def test_scipy_solvers_take_the_operator():
    """A least squares problem of a strided complex convolution."""
    rng = np.random.default_rng(9)
    w = rng.standard_normal((4, 1, 2, 2)) + 1j * rng.standard_normal((4, 1, 2, 2))
    operator = ConvOperator(w, (1, 6, 6), 2)
    x = rng.standard_normal(36) + 1j * rng.standard_normal(36)
    found = scipy.sparse.linalg.lsqr(operator, operator @ x, atol=1e-12, btol=1e-12)[0]
    np.testing.assert_allclose(found, x, atol=1e-8)


# ---- Memory ---------------------------------------------------------------------------------------------------------


def test_a_matrix_that_cannot_fit(monkeypatch):
    w = np.ones((64, 64, 3, 3), "f4")
    monkeypatch.setattr(_memory, "most_memory", lambda: 2 * 10**9)
    with pytest.raises(MemoryError) as caught:
        conv_matrix(w, (64, 56, 56), pad=1, format="dense")
    assert str(caught.value) == (
        "the 200704 x 200704 matrix of float32 takes 161,128,382,464 bytes as format='dense', and this process can have at most "
        "2,000,000,000; format='csr' takes 903,757,828"
    )
    with pytest.raises(MemoryError, match=r"takes 14,\d+,\d+,\d+ bytes as format='csr'.*; format='operator' takes 147,456$"):
        conv_matrix(w, (64, 224, 224), pad=1)
    assert conv_matrix(w, (64, 224, 224), pad=1, format="operator").shape == (3211264,) * 2


def test_sizes_beyond_all_memory_are_refused_at_once():
    start = time.perf_counter()
    for x_shape, format in (((1, 2**23, 2**23), "csr"), ((1, 2**20, 2**20), "dense")):
        with pytest.raises(MemoryError, match="format='operator' takes 8$"):
            conv_matrix(np.ones((1, 1, 1, 1)), x_shape, format=format)
    assert time.perf_counter() - start < 0.5  # a machine may be busy; the work would take minutes


def test_memory_that_runs_out_on_the_way(monkeypatch):
    def none(*args):
        raise MemoryError

    monkeypatch.setattr(im2colx.matrix._core, "csr", none)
    with pytest.raises(MemoryError, match=r"2 x 6 matrix of float64 takes 108 bytes as format='csr'.*; format='dense' takes 96$"):
        conv_matrix(np.ones((2, 2)), (2, 3))


def test_the_memory_that_a_process_can_have(tmp_path, monkeypatch):
    assert 2**26 < _memory.most_memory() <= 2**47
    group = tmp_path / "memory"
    group.mkdir()
    assert _memory._limit_of(group) is None
    (group / "memory.limit_in_bytes").write_text("5000\n")
    assert _memory._limit_of(group) == 5000
    (group / "memory.max").write_text("max\n")
    assert _memory._limit_of(group) == 5000
    (group / "memory.max").write_text("3000\n")
    monkeypatch.setattr(_memory, "control_groups", lambda name: [group] if name == "memory" else [])
    assert _memory.most_memory() == 3000
    monkeypatch.setattr(_memory.resource, "getrlimit", lambda which: (2000, 4000) if which == _memory.resource.RLIMIT_AS else None)
    assert _memory.most_memory() == 2000


CODE = """
import json, sys
import numpy as np
from im2colx import conv_matrix

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024

layout = sys.argv[1]
w, x_shape = np.ones((16, 16, 3, 3), "f4"), (16, 56, 56)
if layout == "NHWC":
    w, x_shape = w.transpose(2, 3, 1, 0).copy(), (56, 56, 16)
conv_matrix(w, x_shape, 8, 1, layout=layout)  # SciPy's own modules and the pool
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = peak()
m = conv_matrix(w, x_shape, pad=1, layout=layout)
print(json.dumps([peak() - before, m.data.nbytes + m.indices.nbytes + m.indptr.nbytes]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells and resets the peak of a process")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_csr_is_built_in_its_own_arrays(layout):
    """56 MB of them; a fifth more is what is allowed."""
    result = subprocess.run([sys.executable, "-c", CODE, layout], capture_output=True, text=True, check=True)
    extra, own = json.loads(result.stdout)
    assert own > 50e6
    assert extra < 1.2 * own


# ---- Bad input ------------------------------------------------------------------------------------------------------


def test_arguments_of_the_wrong_kind():
    w = np.ones((4, 3, 3, 3))
    for call, error, message in (
        (lambda: conv_matrix(w, (3, 8, 8), format="coo"), ValueError, "format is 'coo', but must be one of csr, dense, operator"),
        (lambda: conv_matrix(w, (3, 8, 8), format=None), TypeError, "format must be a string"),
        (lambda: conv_matrix(w, (3, 8, 8), boundary="reflect"), ValueError, "boundary is 'reflect', but must be one of zero, circular"),
        (lambda: conv_matrix(w, (3, 8, 8), boundary=1), TypeError, "boundary must be a string"),
        (lambda: conv_matrix(w, (4, 8, 8)), ValueError, "w has 3 input channels x 1 groups = 3, but x_shape has 4"),
        (lambda: conv_matrix(w, 8), TypeError, "x_shape must be a tuple"),
        (lambda: conv_matrix(w, (3, 2, 2)), ValueError, "output height would be below 1"),
        (lambda: conv_matrix(w, (3, 8, 8), np.ones(4)), ValueError, "bias=..."),
        (lambda: conv_matrix(w.astype("O"), (3, 8, 8)), TypeError, "w has dtype object"),
        (lambda: conv_matrix(w, (3, 8, 8), pad="circular"), ValueError, "pad is 'circular'"),
        (lambda: ConvOperator(w, (3, 8, 8)) @ np.ones(5), ValueError, "dimension mismatch"),
        (lambda: ConvOperator(w, (3, 8, 8)) @ np.full(192, None), TypeError, "the operand has dtype object"),
    ):  # fmt: skip
        with pytest.raises(error) as caught:
            call()
        assert message in str(caught.value)
