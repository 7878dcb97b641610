"""What a mutant has to survive: run by checks/mutate.py, with PYTHONPATH at the build that holds all mutants.

Reads lines "number path" and answers each with a line "number stage", where `stage` is what noticed the mutant, or "-".
Each mutant acts in a process of its own, forked when all that is expected has been computed; it ends by a wrong result, an
exception, a signal, or by taking three times as long as it should.
"""

import contextlib
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "checks")]

import fuzz  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import scipy.sparse.linalg  # noqa: E402, F401  loaded once, not by every mutant
import trials  # noqa: E402
from test_implicit import LARGE, PADDED  # noqa: E402
from trial import Trial  # noqa: E402

import im2colx  # noqa: E402
from im2colx import _core, _mutant  # noqa: E402
from im2colx._geometry import resolve  # noqa: E402

MORE_MEMORY = 3 << 30  # bytes that a mutant may take beyond what is there at the fork
LEAST_SECONDS = 1
FUZZED = 12  # scenes of 48 calls

# What a file is part of: functions of tests/trials.py and, behind a colon, the kind of method; then the test files that look at
# what neither these nor fuzzed calls do.
IMPLICIT = (["run_problem:implicit"], [])
PARTS = {
    "im2colx/_geometry.py": ([], ["geometry", "operands", "out", "bad_inputs"]),
    "im2colx/_plan.py": ([], ["exact_integers"]),
    "csrc/bounds.c": (["run_problem:loops"], ["giants"]),
    "csrc/csr.c": (["run_csr"], []),
    "csrc/implicit_input.c": (["run_problem:implicit"], ["giants"]),
    "csrc/im2col.c": (["run_im2col", "run_col2im"], ["patches"]),
    "csrc/implicit_tables.c": (["run_problem:implicit"], ["giants"]),
    "csrc/product.c": (["run_problem:tile", "run_problem:whole"], []),
    "csrc/patches.c": (["run_im2col", "run_col2im", "run_problem:tile", "run_problem:whole"], ["patches"]),
    "csrc/index_map.h": (["run_problem:implicit", "run_csr", "run_im2col", "run_col2im", "run_problem:tile", "run_problem:loops"],
                         []),
}  # fmt: skip


# ---- Stages ---------------------------------------------------------------------------------------------------------


def operands():
    """Small geometries of every number of axes, some with all bits of x; then large ones, of sums that are cut; then giants."""
    rng = np.random.default_rng(0)
    dtypes = ("float32", "float64", "float32", "complex64", "float64", "complex128", "int64")
    small = [
        trials.Operands(rng, trials.random_geometry(rng, 1 + n % 3, (7, 30)[n // 3 % 2]), dtypes[n % 7]) for n in range(120)
    ]
    small += [trials.Operands(rng, g, "float32") for g in trials.PLANES for _ in range(4)]  # in each kind of memory
    picked = [trials.random_geometry(rng, 1 + n % 3, (7, 30)[n // 3 % 2]) for n in range(36)]
    small += [
        trials.Operands(rng, g, dtypes[n // 6 % 2], is_picked=True) for n, g in enumerate([*picked, *[trials.PHASES] * 2])
    ]
    large = [trials.Operands(rng, trials.in_layout(g, is_last), "float32") for g in trials.LARGE for is_last in (False, True)]
    for number, (x, w, arguments) in enumerate([*PADDED, *LARGE]):
        g = trials.in_layout(resolve(x, w, *arguments, "NCHW"), bool(number % 2) and number >= len(PADDED))
        large.append(trials.Operands(rng, g, "float32"))
    giants = [
        trials.Operands(rng, trials.in_layout(g, is_last), "float32") for g in trials.GIANTS for is_last in (False, True)
    ]
    return small, large, giants


def failing(sets, which, isa=None, is_giant=False):
    """A stage: whether one of the trials `which` of these operands fails."""

    def stage():
        if isa is not None:
            _core.set_isa(isa)
        for number, t in enumerate(sets):
            for run, arguments in trials.trials_of(t, number, is_giant=is_giant):
                if which & {run.__name__, f"{run.__name__}:{arguments.get('kind')}"}:
                    result, right = run(t, **arguments)
                    if not np.array_equal(result, right):
                        return True
        return False

    return stage


def failing_test(file):
    return lambda: pytest.main(["-x", "-q", "-p", "no:cacheprovider", str(file)]) != 0


def failing_fuzz(is_python):
    """A stage: whether a call of checks/fuzz.py fails, time apart."""
    calls = [call for scene in range(FUZZED if is_python else 2 * FUZZED) for _, call in fuzz.calls_of(1, scene)]

    def stage():
        trial = Trial(planning_ms=1000, slower=100)
        return any(trial.fault(call) for call in calls)

    return stage


def stages_of(path, sets):
    """The stages for a file, by name; each is a function that tells whether it noticed something."""
    which, tests = PARTS.get(path, IMPLICIT)
    which, stages = set(which), {}
    small, large, giants = sets
    if which:
        some = large if "run_problem:implicit" in which else large[: 2 * len(trials.LARGE)]
        stages = {"trials": failing(small, which), "large": failing(some, which), "giants": failing(giants, which, None, True)}
    if "run_problem:implicit" in which:
        for isa in _core.instruction_sets()[:-1]:
            stages[f"trials, {isa}"] = failing(small[:60] + large[::4], which, isa)
    stages["fuzz"] = failing_fuzz(path.endswith(".py"))
    for name in tests:
        stages[f"test_{name}.py"] = failing_test(ROOT / "tests" / f"test_{name}.py")
    return stages


# ---- A mutant in a process of its own -------------------------------------------------------------------------------


def act(number):
    """From here on, mutant `number` is what runs, in this process and those that it starts."""
    os.environ["IM2COLX_MUTANT"] = str(number)
    _mutant.act(_core.__file__, number)


def in_child(number, stage, seconds):
    """Runs a stage under a mutant: (whether it was noticed, seconds of CPU).  `seconds`: how long it may take."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        for stream in (1, 2):
            os.dup2(os.open(os.environ.get("IM2COLX_MUTANT_LOG", os.devnull), os.O_WRONLY | os.O_APPEND), stream)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1,) * 2)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MORE_MEMORY,) * 2)
        noticed = True
        with contextlib.suppress(BaseException):
            act(number)
            noticed = stage()
        os.write(writing, b"n" if noticed else b"s")
        os._exit(0)
    os.close(writing)
    # The limit is on CPU time, as the machine may be busy; the clock is for what waits for ever.
    ready, _, _ = select.select([reading], [], [], 20 + 4 * seconds)
    answer = os.read(reading, 1) if ready else b""
    os.close(reading)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # and whatever it has started
    _, _, usage = os.wait4(child, 0)
    return answer != b"s", usage.ru_utime + usage.ru_stime


def main():
    start = time.monotonic()
    sets = operands()
    known, costs, kills = {}, {}, {}
    print(f"ready {time.monotonic() - start:.0f}", flush=True)
    for line in sys.stdin:
        number, path = line.split()
        part = repr(PARTS.get(path, IMPLICIT))  # files of one part share what it costs
        if part not in known:
            known[part], costs[part] = stages_of(path, sets), {}
        stages, cost = known[part], costs[part]
        for name in stages.keys() - cost.keys():
            noticed, cost[name] = in_child(0, stages[name], 300)
            if noticed:
                print(f"broken {name}", flush=True)
                return 1
        # Those first that have killed most mutants of this part for their time.
        counts = kills.setdefault(part, dict.fromkeys(stages, 0.2))
        answer = "-"
        for name in sorted(stages, key=lambda name: -counts[name] / (0.02 + cost[name])):
            noticed, _ = in_child(int(number), stages[name], max(LEAST_SECONDS, 3 * cost[name]))
            if noticed:
                counts[name] += 1
                answer = name
                break
        print(f"{number} {answer}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
