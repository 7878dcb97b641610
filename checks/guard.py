"""Nothing beyond an array is read or written: arrays begin or end at a page that must not be touched.

Every public function, method and instruction set of this machine, with the library as it is installed: sizes 1 to 67, both layouts,
flipped and permuted strides, mostly float32 and float64.  Inputs and `out` lie at the end of their pages in one run of a call and at
the begin in another, so that one element too far ends the process; the results are compared with the slow twin, too.
"""

import ctypes
import mmap
import os
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import child
import common

PER_SCENE = 16  # calls, each at the end and at the begin
FLAVOURS = ("large",) * 6 + ("small",) * 2 + ("giant",)
CHECKS, QUICK = 100_000, 16_000  # of all instruction sets together


class Pages:
    """Memory between two pages without access."""

    def __init__(self):
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        self._free, self._taken, self.at_end = {}, [], True

    def place(self, count, offset):
        """`count` bytes that end at the page, or begin behind one."""
        import numpy as np

        size = -(-max(count, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        free = self._free.setdefault(size, [])
        whole = free.pop() if free else self._new(np, size)
        self._taken.append((size, whole))
        start = mmap.PAGESIZE + (size - count if self.at_end else 0)
        return whole[start : start + count]

    def _new(self, np, size):
        whole = np.frombuffer(mmap.mmap(-1, size + 2 * mmap.PAGESIZE), np.uint8)
        for page in (0, mmap.PAGESIZE + size):
            if self._libc.mprotect(whole.ctypes.data + page, mmap.PAGESIZE, 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        return whole

    def give_back(self):
        for size, whole in self._taken:
            self._free[size].append(whole)
        self._taken.clear()


def calls_of(seed, scene_number, pages):
    """(number, call): each call twice."""
    import calls
    from scenes import Scene

    r = random.Random(f"{seed}:{scene_number}")
    scene = Scene(r, r.choice(FLAVOURS), for_core=True)
    for number in range(2 * PER_SCENE):
        call = calls.legal(random.Random(f"{seed}:{scene_number}:{number // 2}"), scene)
        call.is_timed = False
        pages.at_end = number % 2 == 0
        yield number, call


def stream(seed, begin, behind, scenes, pages):
    for scene in range(begin, scenes):
        for number, call in calls_of(seed, scene, pages):
            if scene > begin or number > behind:
                yield scene, number, call


def main():
    options = {
        "checks": {"type": int, "help": f"how many (default {CHECKS:,}; {QUICK:,} with --quick)"},
        "isa": {"help": "only this instruction set"},
        "path": {"help": "a folder from which im2colx is imported: a build apart"},
        "only": {"metavar": "SCENE:NUMBER", "help": "run one check of --seed again, here"},
    }
    asked = common.arguments("guard", __doc__, **child.child_arguments(options))
    if asked.record or asked.only:
        from trial import Trial

        pages = Pages()
        trial = Trial(pages.place, pages.give_back)
    if asked.record:
        child.serve(asked.record, stream(asked.seed, asked.begin, asked.behind, asked.scenes, pages), trial)
        return 0
    if asked.only:
        scene, number = map(int, asked.only.split(":"))
        for at, call in calls_of(asked.seed, scene, pages):
            if at == number:
                print(call.text, flush=True)
                wrong = trial(call)
        print("\n    ".join(wrong) if wrong else "passed")
        return 1 if wrong else 0
    if not hasattr(ctypes.CDLL(None), "mprotect"):
        print("guard: pages cannot be protected here: this system has no mprotect")
        return 1
    report = common.Report("guard")
    environment = common.environment_of(asked.path) if asked.path else dict(os.environ)
    sets = [asked.isa] if asked.isa else instruction_sets(environment)
    scenes = -(-(asked.checks or (QUICK if asked.quick else CHECKS)) // (2 * PER_SCENE * len(sets)))
    for number, isa in enumerate(sets):
        report.say(f"{isa}: {scenes * 2 * PER_SCENE:,} checks")
        seed = asked.seed + 1000 * number  # other calls for each
        variables = {**environment, "IM2COLX_ISA": isa}
        again = f"python checks/guard.py --seed={seed}" + (f" --path={asked.path}" if asked.path else "")
        command = [*child.python(), str(Path(__file__).resolve()), f"--seed={seed}"]
        repeat = lambda scene, call, isa=isa, again=again: f"IM2COLX_ISA={isa} {again} --only={scene}:{call}"  # noqa: E731
        child.watch(report, command, variables, scenes, repeat)
    return report.finish()


def instruction_sets(environment):
    """Those of this machine, by asking the library."""
    import subprocess

    code = "import im2colx; print(*im2colx.info()['cpu']['instruction_sets'])"
    environment = {name: value for name, value in environment.items() if name != "IM2COLX_ISA"}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout.split()


if __name__ == "__main__":
    sys.exit(main())
