"""Files when the disk fails, is full, or the process is killed: the old checkpoint still loads, and the message names the file.

Words: ``errors`` (needs c/failing.c), ``kills``, ``full`` (a small tmpfs, where that may be mounted) or ``limit`` (RLIMIT_FSIZE);
then ``quick`` or ``full``; then a seed.
"""

import contextlib
import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from child import FOLDER, at, check, say
from shim import FILES, Shim

from im2colx import _files, datasets, nn
from im2colx.nn.checkpoint import load_last_good, previous

ROOT = FOLDER.parent.parent
STUDIES = ("", "morphism")  # with checkpoints, and without


def save(path, number, size=20_000):
    nn.save_checkpoint(path, {"a": np.full(size, number, np.int64)}, {"number": number}, previous=previous(path))


def load(path):
    """The number of the newest checkpoint that can be had, its content looked at."""
    with warnings.catch_warnings(action="ignore"):
        arrays, facts, _ = load_last_good(path)
    if not (arrays["a"] == facts["number"]).all():
        raise AssertionError(f"{path}: number {facts['number']} with the array of another")
    return facts["number"]


def left_over(path):
    return [name for name in os.listdir(path.parent) if name.endswith(".tmp")]


# ---- Errors of the system at the n-th call ------------------------------------------------------------------------


def failing(shim, what, call, numbers):
    """Do `call` with every one of its file operations failing; yields (description, error or None) after each."""
    shim.arm(FILES, 0)
    call()
    count, _ = shim.disarm()
    check(count, f"{what}: no operation on files was seen")
    for number in numbers:
        for from_then_on in (False, True):
            for nth in range(1, count + 1):
                error = None
                shim.arm(FILES, nth, number, from_then_on)
                try:
                    call()
                except Exception as caught:  # which, is what the caller checks
                    error = caught
                shim.disarm()
                yield f"{what}: {errno.errorcode[number]} at {nth} of {count}{' and after' * from_then_on}", error


def errors(folder, is_quick):
    shim, path, numbers = Shim(), folder / "a.npz", (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    numbers = numbers[: 2 if is_quick else None]
    save(path, 1)
    state = {"next": 2, "good": 1}

    def write():
        number = state["next"]
        state["next"] += 1
        save(path, number)
        state["good"] = number

    for what, error in failing(shim, "save_checkpoint", write, numbers):
        at(what)
        tried = state["next"] - 1
        check(error is None or isinstance(error, OSError) and str(path) in str(error), f"{what}: {error!r} does not name {path}")
        found = load(path)
        check(found == state["good"] if error is None else found in (state["good"], tried), f"{what}: {found} is not {state['good']}")
        state["good"] = found
        check(not left_over(path), f"{what}: left {left_over(path)}")

    save(path, 1)
    save(path, 2)
    for what, error in failing(shim, "load_checkpoint", lambda: nn.load_checkpoint(path), numbers):
        at(what)
        check(error is None or isinstance(error, OSError) and str(path) in str(error), f"{what}: {error!r} blames the file, or none")

    report = folder / "report.html"
    _files.write_bytes(report, "old")
    for what, error in failing(shim, "write_bytes", lambda: _files.write_bytes(report, "new" * 1000), numbers):
        at(what)
        check(error is None or isinstance(error, OSError) and str(report) in str(error), f"{what}: {error!r} does not name {report}")
        check(report.read_bytes() in (b"old", b"new" * 1000), f"{what}: a part of the file")
        check(not left_over(report), f"{what}: left {left_over(report)}")

    def hold():
        with _files.occupied(folder):
            pass

    for what, error in failing(shim, "occupied", hold, numbers):
        at(what)
        check(error is None or isinstance(error, OSError) and _files.LOCK in str(error), f"{what}: {error!r} does not name the lock")
        hold()

    digits = folder / "digits"
    digits.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
    for what, error in failing(shim, "read_idx", lambda: datasets.read_idx(digits), numbers):
        at(what)
        check(error is None or isinstance(error, datasets.DataError) and str(digits) in str(error), f"{what}: {error!r}")


# ---- Kills ---------------------------------------------------------------------------------------------------------

WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from files import save
number = int(sys.argv[3])
while True:
    number += 1
    print(number, "begins", flush=True)
    save(Path(sys.argv[2]), number, int(sys.argv[4]))
    print(number, "is written", flush=True)
"""


def kills(folder, is_quick, rng):
    """SIGKILL at any moment of an endless row of checkpoints: what was acknowledged, or what came after it, is there."""
    path, acknowledged, struck = folder / "a.npz", 1, 0
    save(path, 1)
    count = 15 if is_quick else 1000
    for kill in range(count):
        at(f"kill {kill}")
        command = [sys.executable, "-c", WRITER, str(FOLDER), str(path), str(acknowledged), str(rng.choice((1000, 100_000, 1_000_000)))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            begun = child.stdout.readline()  # it has started
            time.sleep(rng.uniform(0, 0.1))
            child.send_signal(signal.SIGKILL)
            lines = [begun, *child.stdout.readlines()]
        written = [int(line.split()[0]) for line in lines if line.endswith("written\n")]
        least, most = max([acknowledged, *written]), max(int(line.split()[0]) for line in lines if line.endswith("begins\n"))
        found = load(path)
        check(least <= found <= most, f"kill {kill}: found {found}, but {least} was written and {most} begun")
        struck += bool(left_over(path))
        for name in left_over(path):
            (folder / name).unlink()
        acknowledged = found
    say(f"{count} kills, {struck} of them while a file was written")
    if not is_quick:  # the whole experiment, resumed after each
        at("bench/kills.py")
        done = subprocess.run([sys.executable, str(ROOT / "bench" / "kills.py"), "--kills", "20"], capture_output=True, text=True)
        check(done.returncode == 0, f"bench/kills.py: {done.stdout[-500:]} {done.stderr[-500:]}")


# ---- A full disk ---------------------------------------------------------------------------------------------------


def on_small_disk(folder):
    """In a tmpfs of 2 MB: checkpoints that grow until it is full; then no byte is left, and a study is asked for."""
    path, good, failed = folder / "a.npz", 0, 0
    for number, size in enumerate(range(10_000, 200_000, 5_000), 1):
        at(f"a checkpoint of {8 * size} bytes")
        try:
            save(path, number, size)
            good = number
        except OSError as error:
            failed += 1
            check(error.errno == errno.ENOSPC and str(path) in str(error), f"{error!r} does not name {path}")
        check(load(path) == good, f"after checkpoint {number}: {load(path)} is not {good}")
        check(not left_over(path), f"after checkpoint {number}: left {left_over(path)}")
    check(failed > 3, f"only {failed} checkpoints met the full disk")
    with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(b"." * 4096)
    for study in STUDIES:
        at(f"experiment {study} on a full disk")
        begin = time.monotonic()
        command = [sys.executable, "-m", "im2colx", "experiment", *study.split(), "--out", str(folder / "out")]
        done = subprocess.run(command, capture_output=True, text=True)
        told = done.returncode == 2 and "No space left" in done.stderr or "no space left" in done.stderr
        check(told and str(folder / "out") in done.stderr, f"experiment {study}: {done.returncode}, {done.stderr[-300:]}")
        check(time.monotonic() - begin < 60, f"experiment {study}: told only after {time.monotonic() - begin:.0f} s")


def full(folder):
    inside = f'mount -t tmpfs -o size=2m none "$1" && exec "$2" "{FOLDER}/files.py" inside "$1"'
    if not shutil.which("unshare") or subprocess.run(["unshare", "-m", "sh", "-c", 'mount -t tmpfs none "$1"', "sh", folder]).returncode:
        say("left out: a full disk, as no tmpfs may be mounted here (RLIMIT_FSIZE is tried)")
        check(True, "")
        return
    done = subprocess.run(["unshare", "-m", "sh", "-c", inside, "sh", str(folder), sys.executable])
    check(done.returncode == 0, f"the part on a small disk ended with {done.returncode}")


def limit(folder, is_quick):
    """A file may not grow beyond any number of bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    path = folder / "a.npz"
    save(path, 1)
    size = path.stat().st_size
    for most in range(0, size, size // (40 if is_quick else 2000)):
        at(f"files of {most} bytes at most")
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
        try:
            save(path, 2)
            error = None
        except OSError as caught:
            error = caught
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        check(error is not None and error.errno == errno.EFBIG and str(path) in str(error), f"{most} bytes: {error!r} does not name {path}")
        check(load(path) == 1 and not left_over(path), f"{most} bytes: {load(path)}, {left_over(path)}")


def main():
    case, rest = sys.argv[1], sys.argv[2:]
    if case == "inside":
        on_small_disk(Path(rest[0]))
        return
    is_quick, rng = rest[0] == "quick", random.Random(int(rest[1]))
    with tempfile.TemporaryDirectory(prefix="im2colx-faults-") as name:
        folder = Path(name)
        if case == "errors":
            errors(folder, is_quick)
        elif case == "kills":
            kills(folder, is_quick, rng)
        elif case == "full":
            full(folder)
        else:
            limit(folder, is_quick)


if __name__ == "__main__":
    main()
