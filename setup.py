"""Builds the C core. The only place with compiler flags; everything else about the package is in pyproject.toml."""

import os
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

# C11 with GNU vector extensions and pthreads. The microkernels write a*b + c for a fused multiply-add, which -std=c11
# would forbid without -ffp-contract. Instruction sets beyond the baseline are chosen at run time by target attributes on
# functions, never by a flag here. -fno-math-errno: a square root is then one instruction, also of a vector.
FLAGS = ["-std=c11", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra"]

# What checks/cover.py builds: every line of C and Cython counts how often it runs.  -O1 keeps the branches as they are written.
is_counting = os.environ.get("IM2COLX_COVERAGE") == "1"
COUNTING = ["--coverage", "-O1"] if is_counting else []
TRACING = [("CYTHON_TRACE_NOGIL", "1")] if is_counting else []

sources = sorted(str(path) for path in Path("csrc").rglob("*.c"))
headers = sorted(str(path) for pattern in ("csrc/**/*.h", "im2colx/*.pxd") for path in Path().glob(pattern))


def extension(name, sources, depends=()):
    return Extension(
        f"im2colx.{name}",
        [f"im2colx/{name}.pyx", *sources],
        include_dirs=["csrc", numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"), ("CYTHON_CCOMPLEX", "0"), *TRACING],
        depends=[*depends, f"im2colx/{name}.pyx"],
        extra_compile_args=FLAGS + COUNTING,
        extra_link_args=["-pthread", *COUNTING[:1]],
    )


setup(
    ext_modules=cythonize(
        [extension("_blas", [], headers), extension("_core", sources, headers)],
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "embedsignature": True,
            "linetrace": is_counting,
        },
    )
)
