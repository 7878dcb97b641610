"""This very machine made unusual: a lower instruction set, one CPU, a quota, a number of threads."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from strange.tools import EXACT, ending, facts_of, plain_environment, pytest, run, selftest

# What a fused multiply-add gives, and a product that is rounded before it is added does not: (1 + e)^2 - (1 + 2e) = e^2,
# which is lost beside 1 in float32 for e = 2^-12.  Then what the plan says of its microkernel.
PROBE = """
import json, numpy as np, im2colx
e = np.float32(2.0 ** -12)
x = np.array([-(1 + 2 * e), 1 + e], "f4").reshape(1, 2, 1, 1)
w = np.array([1, 1 + e], "f4").reshape(1, 2, 1, 1)
y = float(im2colx.conv2d(x, w, method="implicit")[0, 0, 0, 0])
plan = im2colx.plan_conv2d((1, 64, 56, 56), np.ones((64, 64, 3, 3), "f4"), pad=1, method="implicit")
print(json.dumps({"isa": im2colx.info()["cpu"]["used"], "y": y, "plan": str(plan.explain())}))
"""
FUSED = {"avx2": True, "avx512": True, "neon": True, "sse2": False}


def levels_of(report, path):
    facts = facts_of(report, path, what="this machine")
    return facts["cpu"]["instruction_sets"] if facts else []


def instruction_sets(report, path, options):
    """Every level of the machine, forced by the environment: it is the one in use, and it is exact."""
    tiles = {}
    for level in levels_of(report, path):
        environment = plain_environment(path, IM2COLX_ISA=level)
        exit_code, text = run([sys.executable, "-c", PROBE], env=environment)
        if not report.check(exit_code == 0, lambda level=level, text=text: f"IM2COLX_ISA={level}: {ending(text)}"):
            continue
        facts = json.loads(text)
        line = next((line.strip() for line in facts["plan"].splitlines() if "microkernel" in line), "")
        report.check(facts["isa"] == level, f"IM2COLX_ISA={level}: info() says {facts['isa']}")
        report.check(line.startswith(f"{level} "), f"IM2COLX_ISA={level}: explain() says {line!r}")
        tiles[level] = line.split("microkernel of ")[-1].split(",")[0]
        if level in FUSED:
            was = "not used" if FUSED[level] else "used"
            message = f"IM2COLX_ISA={level}: (1 + e)^2 - (1 + 2e) is {facts['y']}: a fused multiply-add was {was}"
            report.check((facts["y"] == 2.0**-24) == FUSED[level], message)
        geometries = 60 if options.quick else 400
        named = {"what": f"IM2COLX_ISA={level}", "environment": environment}
        if selftest(report, path, seed=options.seed, geometries=geometries, **named):
            report.say(f"{level}: in use, microkernel of {tiles[level]}, self-test equal")
        if not options.quick:
            pytest(report, path, EXACT, **named)
    report.check(len(set(tiles.values())) == len(tiles), f"two levels have one microkernel: {tiles}")
    for name in ("mmx", ""):
        exit_code, text = run([sys.executable, "-c", "import im2colx"], env=plain_environment(path, IM2COLX_ISA=name))
        report.check(exit_code == 1 and f"IM2COLX_ISA is {name!r}" in text, f"IM2COLX_ISA={name!r} is taken:{ending(text)}")


# ---- CPUs ---------------------------------------------------------------------------------------------------------------


def check_threads(report, path, options, what, expected, environment=None, geometries=30, **process):
    """info() counts as many CPUs as there are, and the self-test passes there."""
    facts = facts_of(report, path, what=what, environment=environment, **process)
    if facts is None:
        return
    threads = facts["threads"]
    report.check(threads["used"] == expected, f"{what}: info() says {threads}, but {expected} were to be used")
    if selftest(report, path, seed=options.seed, what=what, geometries=geometries, environment=environment, **process):
        report.say(f"{what}: {threads['used']} used of {threads['available']}, self-test equal")


def one_cpu(report, path, options):
    """Bound to one CPU, by its affinity."""
    if not hasattr(os, "sched_setaffinity"):
        report.say("left out one CPU: this system has no affinity")
        return
    bind = {"preexec_fn": lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})}
    check_threads(report, path, options, "one CPU", 1, **bind)
    # More threads than CPUs: the pool must not wait for what cannot run.
    check_threads(report, path, options, "8 threads on one CPU", 8, plain_environment(path, IM2COLX_NUM_THREADS="8"), **bind)
    if not options.quick:
        pytest(report, path, ["test_conv", "test_implicit"], what="one CPU", **bind)
        pytest(report, path, ["test_threads"], what="one CPU", more=["-k", "not interrupt"], **bind)


def num_threads(report, path, options):
    """IM2COLX_NUM_THREADS: what is legal is used, what is not is refused by name."""
    for number in (1, 3, 256):
        environment = plain_environment(path, IM2COLX_NUM_THREADS=str(number))
        geometries = 15 if options.quick else 200
        check_threads(report, path, options, f"IM2COLX_NUM_THREADS={number}", number, environment, geometries)
    for text in ("0", "257", "-1", "two", "", "1.5", str(2**64)):
        environment = plain_environment(path, IM2COLX_NUM_THREADS=text)
        exit_code, printed = run([sys.executable, "-c", "import im2colx"], env=environment)
        clear = exit_code == 1 and "IM2COLX_NUM_THREADS" in printed and text in printed
        report.check(clear, f"IM2COLX_NUM_THREADS={text!r}: exit {exit_code}:{ending(printed)}")


# ---- Quota --------------------------------------------------------------------------------------------------------------


@contextmanager
def control_group():
    """A control group of our own that can limit CPU time: (its folder, how to set a quota); None where there cannot be one."""
    root, name = Path("/sys/fs/cgroup"), f"im2colx-check-{os.getpid()}"
    for folder, is_old in ((root / "cpu", True), (root / "cpu,cpuacct", True), (root, False)):
        group = folder / name
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            file = group / ("cpu.cfs_quota_us" if is_old else "cpu.max")
            if not file.exists():
                continue

            def set_quota(cpus, file=file, is_old=is_old):
                microseconds = round(cpus * 100_000)
                file.write_text(str(microseconds) if is_old else f"{microseconds} 100000")

            yield group, set_quota
            return
        finally:
            _remove(group)
    yield None


def _remove(group):
    for _ in range(50):  # the kernel lets go of a process that has ended a moment later
        try:
            group.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.1)


def quota(report, path, options):
    """A control group with a quota, where one can be made; else systemd's; always the tree that the unit tests forge."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with control_group() as made:
        if made:
            group, set_quota = made
            for limit, expected in ((0.5, 1), (1, 1), (1.5, 2)):
                try:
                    set_quota(limit)
                    join = {"preexec_fn": lambda: (group / "cgroup.procs").write_text(str(os.getpid()))}
                    check_threads(report, path, options, f"a quota of {limit} CPUs", min(expected, cpus), geometries=15, **join)
                except (OSError, subprocess.SubprocessError) as error:
                    report.say(f"left out a quota of {limit} CPUs: {error}")
        else:
            _systemd_quota(report, path)
    if not options.quick:
        pytest(report, path, ["test_threads"], what="a forged tree of control groups", more=["-k", "cgroup"])


def _systemd_quota(report, path):
    prefix = ["systemd-run", "--user", "--scope", "--quiet", "-p", "CPUQuota=100%"]
    try:
        exit_code, text = run([*prefix, "true"], timeout=20)
    except OSError as error:
        exit_code, text = 1, str(error)
    if exit_code:
        report.say(f"left out a real CPU quota: no control group can be made here ({text.strip() or 'systemd-run fails'})")
        return
    facts = facts_of(report, path, python=(*prefix, sys.executable), what="systemd's quota of one CPU")
    if facts:
        report.check(facts["threads"]["used"] == 1, f"systemd's quota of one CPU: info() says {facts['threads']}")
