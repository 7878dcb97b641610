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
    elif not any(str(argument).startswith("--benchmark-max-time") for argument in config.invocation_params.args):
        config.option.benchmark_max_time = 0.15  # a method and layer; with the plugin's 1.0 all of it takes ten minutes
        config.option.benchmark_min_rounds = 3


def pytest_ignore_collect(collection_path, config):
    if config.getoption("--benchmark") and collection_path.is_file():
        # What bench/auto.py measures is no benchmark of a function, but a report of its own.
        if BENCH not in collection_path.parents or collection_path.name == "test_auto.py":
            return True
    return None
