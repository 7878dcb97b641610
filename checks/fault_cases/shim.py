"""The library of checks/c/failing.c: built, put before a process, and switched on from within it."""

import ctypes
import os
import subprocess
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "c" / "failing.c"
LIBRARY = SOURCE.parent.parent.parent / "build" / "checks" / "failing.so"
MEMORY, THREADS, FILES = 1, 2, 3


def build():
    """Compile it; return what is wrong if that cannot be done (it needs glibc), else None."""
    LIBRARY.parent.mkdir(parents=True, exist_ok=True)
    compiler = os.environ.get("CC", "cc").split()
    options = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", str(SOURCE), "-o", str(LIBRARY), "-ldl", "-pthread"]
    try:
        done = subprocess.run([*compiler, *options], capture_output=True, text=True)
    except OSError as error:
        return str(error)
    if done.returncode:
        return done.stderr[-500:]
    works = subprocess.run(["true"], env=environment(), capture_output=True, text=True)
    return works.stderr[-500:] if works.returncode or works.stderr else None


def environment(**more):
    return dict(os.environ, LD_PRELOAD=str(LIBRARY), **more)


class Shim:
    """In the process before which the library was put."""

    def __init__(self):
        self._c = ctypes.CDLL(None)  # what is loaded already
        for name in ("seen", "failed", "held"):
            getattr(self._c, f"faults_{name}").restype = ctypes.c_long
        self._c.faults_watch.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
        self._c.faults_arm.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_size_t]

    def watch(self, *fragments):
        """Only calls from code of libraries whose paths hold one of these words count; return how many were found."""
        self._c.faults_unwatch()
        found = 0
        with open("/proc/self/maps") as maps:
            for line in maps:
                parts = line.split()
                if "x" in parts[1] and any(fragment in parts[-1] for fragment in fragments):
                    begin, end = (int(number, 16) for number in parts[0].split("-"))
                    found += self._c.faults_watch(begin, end) > 0
        return found

    def arm(self, kind, nth, error=12, from_then_on=False, least=0):
        self._c.faults_arm(kind, nth, error, from_then_on, least)

    def disarm(self):
        """Switch it off; return (calls that counted, calls that failed)."""
        self._c.faults_disarm()
        return self._c.faults_seen(), self._c.faults_failed()

    def held(self):
        """Blocks of the heap that the watched code has not given back."""
        return self._c.faults_held()
