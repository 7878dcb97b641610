"""What this installation is and what it runs on."""

import platform

import numpy as np
import scipy

from im2colx import _blas, _core
from im2colx._methods import METHODS
from im2colx._threads import available_cpus, get_num_threads
from im2colx._version import __version__


def info():
    """Versions, compiler, BLAS, CPU, threads and methods: what a report of a fault should contain.

    Returns
    -------
    dict
        Of plain values, fit for JSON.

    Examples
    --------
    >>> import im2colx
    >>> sorted(im2colx.info())
    ['blas', 'compiler', 'cpu', 'im2colx', 'methods', 'numpy', 'platform', 'python', 'scipy', 'threads']
    """
    return {
        "im2colx": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "platform": platform.platform(),
        "compiler": _core.compiler(),
        "blas": _blas.describe(),
        "cpu": {"model": _cpu_model(), "instruction_sets": _core.instruction_sets(), "used": _core.isa()},
        "threads": {"available": available_cpus(), "used": get_num_threads()},
        "methods": {method.name: method.summary for method in METHODS},
    }


def _cpu_model():
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
