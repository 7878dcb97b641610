"""What the parts share: processes, the self-test and the tests of a build, virtual environments, and the core by itself."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import _native
from common import BUILDS, ROOT, environment_of

# Tests that compare results with the slow twin, most of them exactly.
EXACT = [
    "test_conv", "test_implicit", "test_patches", "test_patch_matrix", "test_matrix", "test_nn_kernels", "test_borders",
    "test_bounds", "test_plan", "test_same_bits",
]  # fmt: skip

# Those of them that an emulator runs in minutes, the slowest last.
PORTABLE = ["test_patches", "test_borders", "test_plan", "test_same_bits", "test_nn_kernels", "test_conv", "test_implicit"]


def run(command, timeout=1800, **options):
    """Runs a command; returns its exit code and all that it printed, which says so if it took too long."""
    try:
        done = subprocess.run(
            [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            timeout=timeout, **options,
        )  # fmt: skip
    except subprocess.TimeoutExpired as expired:
        text = expired.stdout or b""
        return -1, f"{text.decode(errors='replace') if isinstance(text, bytes) else text}\nafter {timeout} s it still ran"
    return done.returncode, done.stdout


def ending(text, characters=1500):
    """The last of what a command printed, indented."""
    return "\n    ".join(["", *text.strip()[-characters:].splitlines()])


def plain_environment(path, **variables):
    """The environment of a process that imports im2colx from `path`, without what this shell may have forced."""
    environment = environment_of(path, **variables)
    for name in ("IM2COLX_ISA", "IM2COLX_NUM_THREADS"):
        if name not in variables:
            environment.pop(name, None)
    return environment


def facts_of(report, path, python=(sys.executable,), what="", environment=None, **options):
    """What `info()` says in a fresh process; None, and a failure, if it cannot be had or is of another build."""
    code = "import im2colx, json; print(json.dumps([im2colx.__file__, im2colx.info()]))"
    exit_code, text = run([*python, "-c", code], env=environment or plain_environment(path), **options)
    if not report.check(exit_code == 0, lambda: f"{what}: info() ended with {exit_code}:{ending(text)}"):
        return None
    file, facts = json.loads(text.splitlines()[-1])
    if not report.check(Path(file).is_relative_to(path), f"{what}: im2colx was imported from {file}, not from {path}"):
        return None
    return facts


def selftest(report, path, python=(sys.executable,), what="", geometries=200, environment=None, *, seed, **options):
    """`im2colx selftest` in a fresh process; whether it passed."""
    command = [*python, "-m", "im2colx", "selftest", "--json", "--geometries", geometries, "--seed", seed]
    exit_code, text = run(command, env=environment or plain_environment(path), **options)
    try:
        passed = json.loads(text[text.index("{") :])["passed"]
    except (ValueError, KeyError, TypeError):
        passed = 0
    if exit_code == 0 and passed:
        report.passed(passed)
        return True
    report.fail(f"{what}: selftest --geometries {geometries} --seed {seed} ended with {exit_code}:{ending(text)}")
    return False


def pytest(report, path, tests, python=(sys.executable,), what="", more=(), environment=None, timeout=3600, **options):
    """Runs test modules on the build at `path`; each test counts.  Returns whether all passed."""
    files = [str(ROOT / "tests" / f"{name}.py") for name in tests]
    command = [*python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", "-o", "addopts=--import-mode=importlib",
               *more, *files]  # fmt: skip
    exit_code, text = run(command, env=environment or plain_environment(path), cwd=ROOT, timeout=timeout, **options)
    counted = {word.strip(","): int(number) for number, word in zip(*[iter(_counts(text))] * 2, strict=False)}
    passed, failed = counted.get("passed", 0), counted.get("failed", 0) + counted.get("error", 0) + counted.get("errors", 0)
    report.passed(passed)
    report.say(f"{what}: {passed} tests passed, {failed} failed, {counted.get('skipped', 0)} skipped")
    if exit_code == 0 and passed and not failed:
        return True
    names = [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))]
    for name in names[:20]:
        report.fail(f"{what}: {name}")
    if not names:
        report.fail(f"{what}: pytest ended with {exit_code}:{ending(text)}")
    elif passed == 0 or len(names) < 3:
        print(ending(text, 4000), flush=True)
    return False


def _counts(text):
    """The words of pytest's last line, from the first number on: "3 failed, 40 passed in 2.1s"."""
    for line in reversed(text.splitlines()):
        words = line.strip("= ").split()
        if len(words) >= 4 and words[0].isdigit() and " in " in line:
            return words[: words.index("in")]
    return []


# ---- Environments -------------------------------------------------------------------------------------------------------


def requirements():
    """The lower bounds in pyproject.toml, by name: what the package runs with, and what it is built with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    both = project["project"]["dependencies"], project["build-system"]["requires"]
    return [dict(line.split(">=") for line in lines) for lines in both]


def virtual_environment(name, packages):
    """A virtual environment under build/checks with the packages; made again only when the list changes.

    Returns
    -------
    python : Path or None
        None if pip could not install them.
    why : str
        The last line that pip printed, if so.
    """
    folder = BUILDS / f"env-{name}"
    stamp, wanted = folder / "stamp", f"{sys.version}\n" + "\n".join(packages)
    python = folder / "bin" / "python"
    if stamp.is_file() and stamp.read_text() == wanted:
        return python, ""
    shutil.rmtree(folder, ignore_errors=True)
    for command in ([sys.executable, "-m", "venv", folder], [python, "-m", "pip", "install", "-q", *packages]):
        exit_code, text = run(command)
        if exit_code:
            lines = [line for line in text.splitlines() if "ERROR" in line] or text.splitlines() or ["nothing"]
            return None, lines[-1]
    stamp.write_text(wanted)
    return python, ""


def zig(report):
    """The words of a command that is a C compiler for any machine, from the package `ziglang`; None if it cannot be had."""
    python, why = virtual_environment("zig", ["ziglang"])
    if python is None:
        report.say(f"left out what needs zig, which pip does not give: {why}")
        return None
    return [str(python), "-m", "ziglang", "cc"]


# ---- The core by itself -----------------------------------------------------------------------------------------------


def warnings_in(text, folder="csrc/"):
    """The compiler's warnings about our own files, each once."""
    found = [line.strip() for line in text.splitlines() if "warning:" in line and folder in line]
    return sorted({line[line.index(folder) :] for line in found})


def core_calls(report, seed, what, compiler, emulator=(), calls=1000, flags=(), link=()):
    """Compiles checks/c/calls.c with csrc/, and runs it on every instruction set.  Warnings are failures."""
    name = what.replace(" ", "-").replace(",", "")
    environment = dict(os.environ, ZIG_GLOBAL_CACHE_DIR=str(BUILDS / "zig-cache"))
    try:
        program = _native.build(f"foreign/{name}", {"calls": _native.CALLS}, flags, link, compiler, environment)["calls"]
    except RuntimeError as error:
        report.fail(f"{what}: does not compile:{ending(str(error), 2500)}")
        return
    words = [*emulator, program, seed, calls, 2, "every"]
    exit_code, text = run(words)
    lines = text.strip().splitlines()
    report.say(f"{what}: " + "\n    ".join(lines[-8:]))
    if report.check(exit_code == 0, lambda: f"{what}: {' '.join(map(str, words))} ended with {exit_code}:{ending(text)}"):
        report.passed(calls * len(lines))
