"""The borders: BLAS row by column, every status of the C core, and the facts that info() tells."""

import ctypes
import json
import subprocess
import sys

import numpy as np
import pytest
from cases import FLOATS

import im2colx
from im2colx import _blas, _core


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("accumulate", [False, True])
def test_matmul(dtype, transpose_a, transpose_b, accumulate):
    rng = np.random.default_rng(0)

    def matrix(*shape):
        values = rng.integers(-3, 4, shape) + 1j * rng.integers(-3, 4, shape) * (np.dtype(dtype).kind == "c")
        return (values if np.dtype(dtype).kind == "c" else values.real).astype(dtype)

    for m, n, k in ((1, 1, 1), (3, 4, 5), (7, 2, 1), (1, 9, 6)):
        a = matrix(k, m) if transpose_a else matrix(m, k)
        b = matrix(n, k) if transpose_b else matrix(k, n)
        c = matrix(m, n) if accumulate else np.full((m, n), np.nan, dtype)  # must not be read
        expected = (a.conj().T if transpose_a else a) @ (b.conj().T if transpose_b else b) + (c if accumulate else 0)
        _blas.matmul(a, b, c, transpose_a, transpose_b, accumulate)
        np.testing.assert_array_equal(c, expected)
    with pytest.raises(ValueError, match="no product"):
        _blas.matmul(np.ones((2, 3), dtype), np.ones((2, 3), dtype), np.ones((2, 3), dtype))
    with pytest.raises(ValueError, match="no product"):
        _blas.matmul(np.ones((2, 2), "i4"), np.ones((2, 2), "i4"), np.ones((2, 2), "i4"))


def test_the_integers_of_blas_are_probed():
    signature = "void (char *, char *, {0} *, {0} *, {0} *, float *)"
    assert _blas._integer_bits(signature.format("int")) == 32
    assert _blas._integer_bits(signature.format("int64_t")) == 64
    with pytest.raises(ImportError, match="unknown type"):
        _blas._integer_bits(signature.format("quux"))
    assert _blas.LARGEST_SIZE == 2 ** (_blas.INTEGER_BITS - 1) - 1


def test_every_status_has_its_exception():
    expected = {0: None, 1: MemoryError, 2: SystemError, 3: OverflowError, 4: RuntimeError}
    assert len(expected) == _core.STATUSES
    for status, exception in expected.items():
        if exception is None:
            _core.raise_status(status)
        else:
            with pytest.raises(exception):
                _core.raise_status(status)


def test_info_is_plain_and_true():
    facts = json.loads(json.dumps(im2colx.info()))
    assert facts["numpy"] == np.__version__
    assert facts["blas"]["integer_bits"] in (32, 64)
    assert list(facts["methods"]) == list(im2colx.methods()[1:])
    assert facts["threads"]["available"] >= 1
    assert facts["compiler"].split()[0] in ("gcc", "clang")
    assert facts["cpu"]["instruction_sets"][0] == "scalar"
    assert facts["cpu"]["used"] in facts["cpu"]["instruction_sets"]


def test_the_core_needs_no_openmp_and_leaves_denormals_alone():
    """-ffast-math would link start-up code that flushes denormals in the whole process."""
    code = "import im2colx, numpy as np; x = np.full(3, 5e-324); print((x * 1).any(), (np.float32(1e-40) * np.float32(1)) != 0)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split() == ["True", "True"]
    if sys.platform == "linux":
        libraries = subprocess.run(["ldd", _core.__file__], capture_output=True, text=True).stdout
        assert "gomp" not in libraries


def test_only_the_module_is_exported():
    library = ctypes.CDLL(_core.__file__)
    with pytest.raises(AttributeError):
        library.im2colx_run
