"""`pytest` runs the tests, and each benchmark once on a tiny shape; `pytest --benchmark` measures, and nothing else."""

from pathlib import Path

import pytest

BENCH = Path(__file__).parent / "bench"


def pytest_addoption(parser):
    parser.addoption(
        "--benchmark", action="store_true", help="measure the methods on the layers of bench/layers, instead of testing"
    )


@pytest.hookimpl(tryfirst=True)  # before pytest-benchmark reads its own options
def pytest_configure(config):
    if not config.getoption("--benchmark"):
        config.option.benchmark_disable = True


def pytest_ignore_collect(collection_path, config):
    if config.getoption("--benchmark") and collection_path.is_file() and BENCH not in collection_path.parents:
        return True
    return None
