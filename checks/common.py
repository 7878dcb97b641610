"""What the checks share: the command line, the count of what was tried, and builds of the library apart from the installed one.

A check is one command, `python checks/NAME.py [--quick] [--seed N]`.  It prints each failure when it is found, and last one
line: what was tried, what failed, how long it took.  Its exit code is 0 if nothing failed.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILDS = ROOT / "build" / "checks"
MOST_SHOWN = 40  # failures


class Report:
    """Counts what a check tries, prints what fails, and ends with one line."""

    def __init__(self, name):
        self.name, self.tried, self.failed = name, 0, 0
        self._start = time.monotonic()

    def passed(self, count=1):
        self.tried += count

    def fail(self, message):
        self.tried += 1
        self.failed += 1
        if self.failed <= MOST_SHOWN:
            print(f"FAILED {self.name}: {message}", flush=True)

    def check(self, holds, message):
        """Counts one trial; `message` is text, or a function that gives it."""
        if holds:
            self.passed()
        else:
            self.fail(message() if callable(message) else message)
        return holds

    def say(self, message):
        print(f"  {self.name}: {message}", flush=True)

    @property
    def seconds(self):
        return time.monotonic() - self._start

    def finish(self):
        """Prints the last line and gives the exit code.  A check that tried nothing has failed."""
        print(f"{self.name}: tried {self.tried:,}, failed {self.failed:,}, {self.seconds / 60:.1f} min", flush=True)
        return 1 if self.failed or not self.tried else 0


def arguments(name, description, **more):
    """The command line of a check: --quick, --seed, and what `more` adds (name → keyword arguments of add_argument)."""
    parser = argparse.ArgumentParser(prog=f"python checks/{name}.py", description=description)
    parser.add_argument("--quick", action="store_true", help="the half that every change runs, a minute or three")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (default 0)")
    for option, settings in more.items():
        parser.add_argument("--" + option.replace("_", "-"), **settings)
    return parser.parse_args()


def _source_files():
    folders = [ROOT / "csrc", ROOT / "im2colx"]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".c", ".h", ".py", ".pyx", ".pxd")]
    files += [path for path in folders[1].rglob("*") if path.suffix in (".css", ".js", ".html")]
    return sorted(files) + [ROOT / name for name in ("setup.py", "pyproject.toml", "README.md")]


def build(name, cflags="", ldflags="", cc=None, python=sys.executable, change=None, key=None):
    """Builds the library apart, with other flags or another compiler, under build/checks/NAME.

    The compiler's flags of setup.py stay; these come first.  Built again only when a source or a flag has changed.

    Parameters
    ----------
    name : str
    cflags, ldflags : str
    cc : str, optional
    python : str
        The interpreter to build for; its environment has Cython, NumPy and setuptools.
    change : callable, optional
        Called with the copy of the sources before they are compiled: what a mutation does.
    key : str, optional
        Stands for all that `change` does: with it, the build is kept as long as it and the sources are the same.

    Returns
    -------
    Path
        What to put into PYTHONPATH, so that `import im2colx` finds this build.  The file `build.log` in it is what the compiler
        printed.
    """
    target = BUILDS / name
    digest = hashlib.sha256(repr((cflags, ldflags, cc, str(python), key)).encode())
    files = _source_files()
    for path in files:
        digest.update(path.read_bytes())
    stamp, is_kept = target / "stamp", change is None or key is not None
    if is_kept and stamp.is_file() and stamp.read_text() == digest.hexdigest():
        return target
    shutil.rmtree(target, ignore_errors=True)
    for path in files:
        copy = target / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
    if change is not None:
        change(target)
    environment = dict(os.environ, CFLAGS=cflags, LDFLAGS=ldflags)
    if cc is not None:
        environment.update(CC=cc, LDSHARED=f"{cc} -shared")
    done = subprocess.run(
        [str(python), "setup.py", "-q", "build_ext", "--inplace"], cwd=target, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"the build {name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    (target / "build.log").write_text(done.stdout + done.stderr)
    if is_kept:
        stamp.write_text(digest.hexdigest())
    return target


def environment_of(path, **variables):
    """The environment of a process that imports im2colx from `path`."""
    return dict(os.environ, PYTHONPATH=str(path), PYTHONSAFEPATH="1", **variables)
