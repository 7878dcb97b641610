"""Reads and writes out of bounds, undefined behaviour, races: see checks/README.md.

Three parts, each with AddressSanitizer and UndefinedBehaviorSanitizer, and the first with ThreadSanitizer too:

    core    programs of C linked with csrc/, without Python: every function of csrc/im2colx.h compared with its definition,
            from many threads at once; and the planning of legal geometries of any size, with a clock (checks/c)
    tests   the tests of what computes, on a build of the package
    fuzz    checks/fuzz.py on that build

Nothing of ours is suppressed.  Leaks are not looked for here: checks/faults.py does.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import common
import _native as native
from im2colx import _core

# Beyond "undefined": what a conversion of a float cuts off.  Of the C programs also the ends of arrays in structures, which
# CPython's own headers do not keep to.
ADDRESS = "-fsanitize=address,undefined,float-cast-overflow"
BOUNDS = ",bounds-strict"
DEBUG = ["-fno-omit-frame-pointer", "-g", "-O1"]  # -O1 compiles in half the time of -O3

# What runs in C: a file of tests → which of its tests; None: all.  Left out are those that measure what the sanitizers change:
# memory, because they keep back what is freed, and the time to an interrupt or a kill, of processes that start slowly.
TESTS = dict.fromkeys(
    ["bad_inputs", "geometry", "operands", "exact_integers", "bounds", "borders", "conv", "implicit", "plan", "patches", "giants",
     "out", "nn_kernels", "index_map"]
)  # fmt: skip
MORE_TESTS = TESTS | {"patch_matrix": "not memory"} | dict.fromkeys(
    ["matrix", "same_bits", "spectrum", "equivalence", "explain", "nn_layers", "nn_model", "nn_optimizers", "nn_pooling",
     "nn_losses", "nn_dropout"]
)  # fmt: skip
# On the best instruction set only, for it waits for processes.
SLOW_TESTS = {"threads": "not fork and not interrupt and not ctrl_c and not signals"}

# Of each instruction set: calls and races in C, plans.  Fuzzed calls: of all together.
QUICK = {"calls": 2_000, "races": 600, "plans": 100_000, "fuzz": 5_000}
FULL = {"calls": 20_000, "races": 6_000, "plans": 3_000_000, "fuzz": 200_000}

PROGRAMS = {
    "calls": native.CALLS,
    "plans": ["harness.c", "arrays.c", "plans.c"],
}
PLANNING_MICROSECONDS = 1000  # in the release build
SLOWER = 10  # the sanitizers, and more where Python starts
CALLERS = 4


def last(text, lines=60):
    return "\n".join(text.strip().splitlines()[-lines:])


# ---- Programs of C ---------------------------------------------------------------------------------------------------


def run_program(report, what, command, count, **variables):
    """Runs it; `count` are the trials that it stands for if it succeeds."""
    environment = dict(os.environ, UBSAN_OPTIONS="print_stacktrace=1", **variables)
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment)
    if "unexpected memory mapping" in done.stderr and shutil.which("setarch"):
        # ThreadSanitizer of older compilers does not bear how far Linux now scatters a process's memory.
        command = ["setarch", platform.machine(), "-R", *command]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment)
    if done.returncode == 0 and not done.stderr.strip():
        report.passed(count)
        report.say(f"{what}: {done.stdout.strip()}")
    else:
        repeat = " ".join(f"{name}={value}" for name, value in variables.items())
        report.fail(f"{what}, exit code {done.returncode}\n{last(done.stdout, 3)}\n{done.stderr.strip()[:6000]}\n"
                    f"    again: {repeat} {' '.join(map(str, command))}")  # fmt: skip


def has_sanitizer(report, name, flags):
    """Whether the compiler can link it and the machine run it; a line if not."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "empty.c"), Path(folder, "empty")
        source.write_text("int main(void) { return 0; }\n")
        made = subprocess.run(["gcc", *flags, str(source), "-o", str(program)], capture_output=True, text=True)
        if made.returncode:
            report.say(f"{name} left out: {last(made.stderr, 1)}")
        return made.returncode == 0


def check_core(report, seed, sizes, levels):
    kinds = {
        "release": ([], [], sizes["plans"], ("calls", CALLERS)),
        "address": ([ADDRESS + BOUNDS, *DEBUG], ["-fsanitize=address,undefined"], sizes["plans"] // 10, ("calls", 1)),
        "thread": (["-fsanitize=thread", *DEBUG], ["-fsanitize=thread"], 0, ("races", CALLERS)),
    }
    for kind, (flags, link, plans, calls) in kinds.items():
        if link and not has_sanitizer(report, kind, link):
            continue
        made = native.build(f"c-{kind}", PROGRAMS, flags, link)
        slower = SLOWER if link else 1
        for number, level in enumerate(reversed(levels)):
            if plans:
                bar = slower * PLANNING_MICROSECONDS
                run_program(report, f"plans, {kind}, {level}", [made["plans"], seed + number, plans, bar, level], plans)
            if calls:
                size, callers = sizes[calls[0]], calls[1]
                command = [made["calls"], seed + number, size, callers, level]
                options = {"ASAN_OPTIONS": "detect_stack_use_after_return=1:detect_leaks=0"}
                run_program(report, f"calls, {kind}, {level}, {callers} callers", command, size, **options)


# ---- The package -----------------------------------------------------------------------------------------------------


class Sanitized:
    """A build of the package with AddressSanitizer and UndefinedBehaviorSanitizer, and processes that import it."""

    def __init__(self, report):
        self.report = report
        runtimes = [
            subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
            for name in ("libasan.so", "libubsan.so")
        ]
        # The interpreter was linked without them, so that they come first only if they are loaded first.
        self.preload = " ".join(path for path in runtimes if os.path.isabs(path))
        self.path = common.build(
            "address",
            cflags=f"{ADDRESS} -fno-sanitize-recover=all -fno-omit-frame-pointer -g",
            ldflags="-fsanitize=address,undefined",
        )

    def run(self, command, level, logs):
        """The process's return code and output, and what the sanitizers wrote into the folder `logs`."""
        common_options = f"log_path={logs}/report:log_exe_name=1"
        environment = common.environment_of(
            self.path,
            LD_PRELOAD=self.preload,
            IM2COLX_ISA=level,
            ASAN_OPTIONS=f"{common_options}:detect_leaks=0:detect_stack_use_after_return=1:allocator_may_return_null=1",
            UBSAN_OPTIONS=f"{common_options}:print_stacktrace=1:halt_on_error=1",
        )
        done = subprocess.run(command, cwd=common.ROOT, env=environment, capture_output=True, text=True)
        # An allocation of the impossible is answered with NULL, as tests and fuzz ask for: its warning is no fault.
        warning = re.compile(r"==.*==WARNING: AddressSanitizer failed to allocate 0x[0-9a-f]+ bytes")
        lines = [line for path in sorted(Path(logs).iterdir()) for line in path.read_text(errors="replace").splitlines()]
        return done.returncode, done.stdout + done.stderr, [line + "\n" for line in lines if not warning.fullmatch(line)]

    def check_tests(self, tests, level):
        """`tests`: name of a file → which of its tests, or None."""
        for name, which in tests.items():
            file = f"tests/test_{name}.py"
            with tempfile.TemporaryDirectory() as logs:
                command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file]
                command += ["-k", which] if which else []
                code, output, found = self.run(command, level, logs)
            counted = re.search(r"(\d+) passed", output)
            if code == 0 and not found and counted:
                self.report.passed(int(counted[1]))
                self.report.say(f"tests, {level}: {file}: {counted[0]}")
            else:
                self.report.fail(f"{file}, {level}, exit code {code}\n{last(output)}\n{last(''.join(found))[:6000]}")

    def check_fuzz(self, calls, seed, level):
        with tempfile.TemporaryDirectory() as logs:
            command = [sys.executable, "checks/fuzz.py", "--path", str(self.path), "--calls", str(calls), "--seed", str(seed)]
            command += ["--isa", level, "--slower", str(2 * SLOWER)]
            code, output, found = self.run(command, level, logs)
        if code == 0 and not found:
            self.report.passed(calls)
            self.report.say(f"fuzz, {level}: {last(output, 1)}")
        else:
            found = last("".join(found))[:6000]
            self.report.fail(f"fuzz, {level}, exit code {code}: {' '.join(command)}\n{last(output)}\n{found}")


def main():
    options = common.arguments(
        "sanitize",
        __doc__,
        only={"choices": ["core", "tests", "fuzz"], "help": "one of the three parts"},
    )
    report = common.Report("sanitize")
    sizes, levels = QUICK if options.quick else FULL, _core.instruction_sets()
    if options.only in (None, "core"):
        check_core(report, options.seed, sizes, levels)
    if options.only != "core" and has_sanitizer(report, "address", ["-fsanitize=address,undefined"]):
        sanitized = Sanitized(report)
        for number, level in enumerate(reversed(levels)):
            if options.only != "fuzz" and (number == 0 or not options.quick):
                sanitized.check_tests(TESTS if options.quick else MORE_TESTS, level)
            if options.only != "fuzz" and number == 0 and not options.quick:
                sanitized.check_tests(SLOW_TESTS, level)
            if options.only != "tests":
                sanitized.check_fuzz(sizes["fuzz"] // len(levels), options.seed + number, level)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
