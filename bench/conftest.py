"""Benchmarks import what stands beside them (`from timing import ...`)."""

import os
import sys
from pathlib import Path

import pytest

import im2colx

sys.path.insert(0, str(Path(__file__).parent))


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["im2colx"] = im2colx.info()


def pytest_report_header(config):
    if not config.getoption("--benchmark"):
        return None
    lines = [f"im2colx: {im2colx.get_num_threads()} threads, BLAS {im2colx.info()['blas']['running']}"]
    held = [name for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE") if name in os.environ]
    if held:
        lines.append(f"im2colx: {' and '.join(held)} set: BLAS is held to older kernels, and these times are not its own")
    return lines


@pytest.fixture
def tiny(request):
    """Whether to run on tiny shapes: plain `pytest`, which only keeps the benchmarks alive."""
    return not request.config.getoption("--benchmark")
