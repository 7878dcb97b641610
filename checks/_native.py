"""Programs and libraries in C that are linked with csrc/: what the checks in checks/c are compiled by."""

import ast
import hashlib
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import BUILDS, ROOT
from im2colx import _geometry, _methods

HERE = ROOT / "checks" / "c"
INCLUDES = [f"-I{ROOT / folder}" for folder in ("csrc", "csrc/microkernels", "checks/c")]

# The program that compares every function of csrc/im2colx.h with its definition: its sources.
CALLS = ["harness.c", "arrays.c", "calls.c", "others.c"]

# The bounds that Python sets, for programs that draw what it lets through.
BOUNDS = [
    f"-DBOUND_ELEMENTS=((wide){_geometry.MOST_ELEMENTS})",
    f"-DBOUND_EXTENT=((wide){_geometry.LARGEST_EXTENT})",
    f"-DBOUND_BYTES=((wide){_methods.MOST_BYTES})",
]


def release_flags():
    """The compiler's flags of setup.py, read without running it."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "FLAGS":
            return ast.literal_eval(node.value)
    raise RuntimeError("setup.py has no list FLAGS")


def build(name, programs, flags=(), link=(), cc=("gcc",), environment=None):
    """Compiles csrc/ once, and links it with each program.  Nothing is compiled again that has not changed.

    Parameters
    ----------
    name : str
        Of the folder under build/checks; one for each set of flags.
    programs : dict
        Name of a program → its sources in checks/c.  A name that ends in ".so" is a library.
    flags, link : sequence of str
        For the compiler, after those of setup.py; for the linker.
    cc : sequence of str
        The words that call the compiler.
    environment : dict, optional
        The compiler's.

    Returns
    -------
    dict
        Name → Path.

    Raises
    ------
    RuntimeError
        If it does not compile without a warning.
    """
    def run(command):
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode or "warning:" in done.stderr:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-4000:]}")
        return done.stdout

    folder = BUILDS / name
    folder.mkdir(parents=True, exist_ok=True)
    flags = [*release_flags(), "-fPIC", *INCLUDES, *BOUNDS, *flags]
    core = sorted(ROOT.glob("csrc/**/*.c"))
    sources = {*core, *(HERE / source for needed in programs.values() for source in needed)}

    def compiled(source):
        needs = run([*cc, *flags, "-MM", str(source)]).replace("\\\n", " ").split(":", 1)[1].split()
        digest = hashlib.sha256(repr((cc, flags)).encode())
        for path in needs:
            digest.update(Path(path).read_bytes())
        made = folder / f"{source.stem}-{digest.hexdigest()[:16]}.o"
        if not made.exists():
            partial = made.with_suffix(f".{os.getpid()}.partial")
            run([*cc, *flags, "-c", str(source), "-o", str(partial)])
            partial.rename(made)
        return source, made

    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2) as pool:
        objects = dict(pool.map(compiled, sorted(sources)))
    paths = {}
    for program, needed in programs.items():
        paths[program] = folder / program
        shared = ["-shared"] if program.endswith(".so") else []
        own = [str(objects[source]) for source in [*core, *(HERE / source for source in needed)]]
        run([*cc, "-pthread", *shared, *own, *link, "-lm", "-o", str(paths[program])])
    return paths
