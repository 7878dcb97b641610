"""Extra memory of a call, as the operating system counts it."""

import subprocess
import sys

import pytest

CODE = """
import sys
import numpy as np
import im2colx

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024

n, c, h, f, k = map(int, sys.argv[2:])
x, w = np.ones((n, c, h, h), "f4"), np.ones((f, c, k, k), "f4")
out = np.full((n, f, h, h), 0.5, "f4")  # zeros would be mapped only when written
small = np.ones((1, c, k + 2, k + 2), "f4")
im2colx.conv2d(small, w, pad=k // 2, method=sys.argv[1], threads=2)  # BLAS's own buffers and the pool's stacks
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # forget the peak so far
before = peak()
im2colx.conv2d(x, w, pad=k // 2, method=sys.argv[1], out=out, threads=2)
print(peak() - before)
"""


def extra_mebibytes(method, *sizes):
    command = [sys.executable, "-c", CODE, method, *map(str, sizes)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


PRODUCTS = """
import numpy as np
from im2colx.nn import _kernels as kernels

def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024

a, b, c = np.ones((300, 2100), "f4"), np.ones((2100, 64), "f4"), np.ones((300, 64), "f4")
kernels.matmul(a, b, c)
before = resident()
for _ in range(200):
    kernels.matmul(a, b, c)
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells and resets the peak of a process")
def test_products_give_their_workspace_back():
    """Each takes 0.7 MiB for its packed operand and its slices."""
    run = subprocess.run([sys.executable, "-c", PRODUCTS], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells and resets the peak of a process")
def test_indexed_holds_a_tile_and_im2col_all():
    """vgg1_2, whose patch matrix has 110 MiB: "indexed" needs its 4 MiB and what BLAS packs, "im2col" the lot."""
    shape = (1, 64, 224, 64, 3)
    assert extra_mebibytes("indexed", *shape) < 4 + 8
    assert extra_mebibytes("im2col", *shape) > 100
    assert extra_mebibytes("implicit", *shape) < 3.5
    assert extra_mebibytes("naive", 1, 8, 64, 8, 3) < 1
