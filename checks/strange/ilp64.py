"""A SciPy with 64-bit BLAS integers, where wheels have none.

SciPy built from source may have them: the functions of `cython_blas` then take `int64_t *` where wheels take `int *`.
NumPy's wheels carry an OpenBLAS of that kind.  Its four products take the places of SciPy's in the table that
`im2colx._blas` reads; once that module has read them, the table is put back for everyone else.
"""

import ctypes
import mmap
import runpy
import sys
from pathlib import Path

NAMES = ("sgemm", "dgemm", "cgemm", "zgemm")
NOT_HERE = 3  # exit code
_kept = []  # names of capsules must outlive them


def _library():
    """NumPy's OpenBLAS and how it spells its names; None if it has none with 64-bit integers."""
    import numpy as np

    folder = Path(np.__file__).parent
    for path in sorted([*(folder.parent / "numpy.libs").glob("*openblas*"), *(folder / ".libs").glob("*openblas*")]):
        try:
            library = ctypes.CDLL(str(path))
        except OSError:
            continue
        for spelling in ("scipy_{}_64_", "{}_64_", "{}64_"):
            if all(hasattr(library, spelling.format(name)) for name in NAMES):
                return library, spelling
    return None


def install():
    """Imports im2colx with the table changed; ends the process where that cannot be."""
    from scipy.linalg import cython_blas

    found = _library()
    if found is None:
        print("NumPy here carries no OpenBLAS with 64-bit integers")
        sys.exit(NOT_HERE)
    library, spelling = found
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype, api.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
    api.PyCapsule_New.restype = ctypes.py_object
    api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    table, before = cython_blas.__pyx_capi__, {}
    for name in NAMES:
        before[name] = table[name]
        signature = api.PyCapsule_GetName(table[name]).replace(b" int *", b" int64_t *")
        _kept.append(signature)
        function = ctypes.cast(getattr(library, spelling.format(name)), ctypes.c_void_p)
        table[name] = api.PyCapsule_New(function, signature, None)
    import im2colx._blas

    table.update(before)
    if im2colx._blas.INTEGER_BITS != 64:
        raise AssertionError(f"im2colx._blas read the signature {_kept[0]} as {im2colx._blas.INTEGER_BITS} bits")


def probe():
    """A product whose leading dimension does not fit 32 bits: channels 2**31 + 64 elements apart, in memory never touched."""
    import numpy as np

    import im2colx
    from im2colx import _blas

    apart = 2**31 + 64
    reserve_nothing = 0x4000  # Linux's MAP_NORESERVE, which older Pythons do not name
    memory = mmap.mmap(-1, 4 * (apart + 4096), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | reserve_nothing)
    whole = np.frombuffer(memory, "f4")
    x = np.lib.stride_tricks.as_strided(whole, (1, 2, 8, 8), (8 * apart, 4 * apart, 32, 4))
    x[...] = np.arange(128).reshape(x.shape)
    w = np.array([[1, 2], [3, -1], [0, 5]], "f4").reshape(3, 2, 1, 1)
    for method in ("indexed", "im2col", "implicit", "naive"):
        if not np.array_equal(im2colx.conv2d(x, w, method=method), im2colx.conv2d(x.copy(), w, method="naive")):
            raise AssertionError(f"{method}: wrong with channels {apart} elements apart")
    blas = im2colx.info()["blas"]
    if blas["integer_bits"] != 64 or 2**31 > _blas.LARGEST_SIZE:
        raise AssertionError(f"info() says {blas}")
    print(f"64-bit BLAS integers: in use; equal also with a leading dimension of {apart}")


def be_python():
    """What follows on the command line, as python itself would take it: -m module arguments."""
    if sys.argv[1:2] != ["-m"]:
        raise SystemExit(f"only -m is known here, not {sys.argv[1:]}")
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
