"""Code that no test reaches, by line and branch, in C, Cython and Python.

Runs the tests on a build that counts, and the core's tests once more for every lower instruction set.  Prints how much of each
file was reached and what was not, and writes pages below build/checks/coverage.  What is not reached is dead, or lacks a test.
The check fails if a function of csrc/ is never called.  Of Cython, lines are counted; branches are not.  Python that only runs
in processes that tests start (the command line's ends, workers) is not counted.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from common import BUILDS, ROOT, Report, arguments, build, environment_of

PAGES = BUILDS / "coverage"
# Where csrc/ is meant to be tested.
CORE = ["conv", "index_map", "giants", "same_bits", "patches", "matrix", "patch_matrix", "plan", "implicit", "nn_kernels"]
# Tests that raise in a signal handler.  Where Python runs it within the tracer's own code, the tracer swallows the exception.
HANDLERS = "ctrl_c or interrupts or signal or blas_keeps or child_that_leaves"
MOST_LISTED = 400  # lines of what was not reached


def run(target, command, report, **variables):
    """Runs a command against the build, in its folder, where Cython's names of files are right; says how it ended."""
    report.say(" ".join(str(part).removeprefix(f"{ROOT}/") for part in command[1:])
               + "".join(f", {name}={value}" for name, value in variables.items()))  # fmt: skip
    done = subprocess.run(command, cwd=target, env=environment_of(target, **variables), capture_output=True, text=True)
    if done.returncode:
        report.say("it did not pass, and what it reached counts all the same:\n" + done.stdout[-1500:] + done.stderr[-500:])


def levels(target):
    code = "from im2colx import _core; print(*_core.instruction_sets())"
    done = subprocess.run([sys.executable, "-c", code], env=environment_of(target), capture_output=True, text=True, check=True)
    return done.stdout.split()


def run_tests(target, report, is_quick):
    pytest = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
    core = [str(ROOT / "tests" / f"test_{name}.py") for name in CORE]
    if is_quick:
        run(target, [sys.executable, *pytest, *core], report)
        return
    settings = PAGES / "coveragerc"
    settings.write_text(
        f"[run]\nbranch = True\nparallel = True\nplugins = Cython.Coverage\nsource = {target / 'im2colx'}\n"
        f"data_file = {PAGES / 'data'}\n[html]\ndirectory = {PAGES / 'python'}\n[json]\noutput = {PAGES / 'python.json'}\n"
    )
    counted = [sys.executable, "-m", "coverage", "run", f"--rcfile={settings}"]
    run(target, [*counted, *pytest, str(ROOT / "tests"), str(ROOT / "bench"), "-k", f"not ({HANDLERS})"], report)
    run(target, [sys.executable, *pytest, str(ROOT / "tests"), "-k", HANDLERS], report)
    for isa in levels(target)[:-1]:
        run(target, [sys.executable, *pytest, *core], report, IM2COLX_ISA=isa)
    fuzz = Path(__file__).with_name("fuzz.py")
    run(target, [sys.executable, str(fuzz), "--calls", "10000", "--slower", "50"], report)  # in child processes: csrc/ counts
    for action in ("combine", "json", "html"):
        quiet = [sys.executable, "-m", "coverage", action, f"--rcfile={settings}", "-q"]
        run(target, quiet, report)


# Out-of-line copies that only exist because an address is compared; every call is inlined.
INLINED = {"gather_run"}

# The one thing that no test counts: a child of a fork leaves the tests without writing its counts, and this one does not.
FORK = """
import os, sys
import numpy as np
import im2colx
x, w = np.ones((4, 32, 32, 32), "f4"), np.ones((32, 32, 3, 3), "f4")
expected = im2colx.conv2d(x, w, threads=2)
child = os.fork()
assert np.array_equal(im2colx.conv2d(x, w, threads=2), expected)
if child == 0:
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


def ranges(numbers):
    """1, 2, 3, 7 as "1-3, 7"."""
    parts = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


class Table:
    """How much of each file was reached, and what was not."""

    def __init__(self):
        self.rows, self.missing = [], []

    def add(self, name, lines, lines_reached, branches, branches_reached, missing_lines, missing_branches):
        self.rows.append((name, lines, lines_reached, branches, branches_reached))
        if missing_lines:
            self.missing.append(f"{name}: lines {ranges(missing_lines)}")
        if missing_branches - missing_lines:
            self.missing.append(f"{name}: one side only of {ranges(missing_branches - missing_lines)}")

    def show(self):
        print(f"\n{'file':36} {'lines':>14} {'branches':>16}")
        for name, *counts in sorted(self.rows):
            cells = [f"{reached:>6} of {all_:<5}" if all_ else " " * 9 + "-   " for all_, reached in (counts[:2], counts[2:])]
            print(f"{name:36} {cells[0]} {cells[1]}")
        print("\nnot reached:")
        print(*self.missing[:MOST_LISTED], sep="\n")


def add_c(target, table, report):
    """What gcov counted in csrc/; a function that nothing calls is a failure."""
    counts, pages = PAGES / "c.json", PAGES / "c"
    pages.mkdir()
    command = [sys.executable, "-m", "gcovr", "--root", str(target), "--filter", "csrc/", "--json", str(counts)]
    command += ["--html-details", str(pages / "index.html"), "--gcov-ignore-parse-errors=all", "--merge-mode-functions=separate"]
    command += ["--gcov-suspicious-hits-threshold=0"]  # the microkernels' loops run more than 2**32 times
    subprocess.run([*command, str(target / "build")], cwd=target, check=True, stdout=subprocess.DEVNULL)
    for file in json.loads(counts.read_text())["files"]:
        lines = [line for line in file["lines"] if not line.get("gcovr/noncode")]
        sides = [(line["line_number"], side["count"] > 0) for line in lines for side in line["branches"]]
        missing = {line["line_number"] for line in lines if line["count"] == 0}
        table.add(file["file"], len(lines), len(lines) - len(missing), len(sides), sum(taken for _, taken in sides),
                  missing, {number for number, taken in sides if not taken})  # fmt: skip
        called = {}
        for function in file["functions"]:
            name = function.get("demangled_name", function["name"])
            if name.startswith("<") or name in INLINED:  # "<": lines of a function that was inlined wherever it is called
                continue
            called[name] = called.get(name, 0) + function.get("execution_count", 0)
        for name, count in called.items():
            report.check(count > 0, f"{file['file']}: nothing calls {name}")


def add_python(target, table):
    for name, file in json.loads((PAGES / "python.json").read_text())["files"].items():
        found, path = file["summary"], Path(name)
        path = path.relative_to(target) if path.is_absolute() else path
        table.add(str(path), found["num_statements"], found["covered_lines"], found.get("num_branches", 0),
                  found.get("covered_branches", 0), set(file["missing_lines"]),
                  {abs(source) for source, _ in file.get("missing_branches", [])})  # fmt: skip


def main():
    args = arguments("cover", __doc__)
    report, table = Report("cover"), Table()
    os.environ["IM2COLX_COVERAGE"] = "1"  # read by setup.py
    target = build("cover")
    for counted in target.rglob("*.gcda"):
        counted.unlink()
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir(parents=True)
    run_tests(target, report, args.quick)
    forked = subprocess.run([sys.executable, "-c", FORK], env=environment_of(target), cwd=target)
    report.check(forked.returncode == 0, "a child of a fork computes something else")
    add_c(target, table, report)
    if not args.quick:
        add_python(target, table)
    table.show()
    report.say(f"pages: {(PAGES / 'c/index.html').relative_to(ROOT)}"
               + ("" if args.quick else f", {(PAGES / 'python/index.html').relative_to(ROOT)}"))  # fmt: skip
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
