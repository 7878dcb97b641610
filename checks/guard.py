"""Nothing beyond an array is read or written: arrays begin or end at a page that must not be touched.

Every public function, method and instruction set of this machine, with the library as it is installed: sizes 1 to 67, both
layouts, flipped and permuted strides, mostly float32 and float64.  Inputs and `out` lie at the end of their pages in one run
of a call and at the begin in another, so that one element too far ends the process.  What the library allocates for itself
lies so, too, by guard_malloc.c.  The results are compared with the slow twin.
"""

import ctypes
import mmap
import os
import random
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))

import child
import common

PER_SCENE = 16  # calls, each at the end and at the begin
FLAVOURS = ("large",) * 6 + ("small",) * 2 + ("giant",)
CHECKS, QUICK = 100_000, 40_000  # of all instruction sets together


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


class Blocks:
    """What is allocated in a call, at the end or the begin of a page, if guard_malloc.c was loaded."""

    def __init__(self, pages):
        self._library, self._pages = ctypes.CDLL(None), pages
        self.is_loaded = hasattr(self._library, "guard_switch")
        if self.is_loaded:
            pairs = _code_of("im2colx/_core", "_multiarray_umath")
            self._library.guard_callers((ctypes.c_size_t * len(pairs))(*pairs), len(pairs) // 2)

    def run(self, call):
        if not self.is_loaded:
            return call()
        self._library.guard_switch(1, not self._pages.at_end)
        try:
            return call()
        finally:
            self._library.guard_switch(0, 0)

    @property
    def count(self):
        return self._library.guard_count() if self.is_loaded else 0


def _code_of(*names):
    """Where the code of loaded libraries lies: first address, address behind the last, of each."""
    pairs = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, rights, *_, path = line.split(maxsplit=5)
        if "x" in rights and any(name in path for name in names):
            pairs += [int(address, 16) for address in addresses.split("-")]
    return pairs


def preload(report):
    """LD_PRELOAD with guard_malloc.c compiled, or nothing where it cannot be."""
    library = common.BUILDS / "guard_malloc.so"
    library.parent.mkdir(parents=True, exist_ok=True)
    command = [
        os.environ.get("CC", "cc"),
        "-O2",
        "-shared",
        "-fPIC",
        "-pthread",
        str(FOLDER / "guard_malloc.c"),
        "-o",
        str(library),
    ]
    try:
        done = subprocess.run([*command, "-ldl"], capture_output=True, text=True)
        trouble = done.stderr.strip().splitlines()[-1:] if done.returncode else None
    except OSError as error:
        trouble = [str(error)]
    if trouble is not None:
        report.say(f"left out: what the library allocates for itself, as guard_malloc.c was not built: {' '.join(trouble)}")
        return {}
    return {"LD_PRELOAD": " ".join([str(library), os.environ.get("LD_PRELOAD", "")]).strip()}


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
        blocks = Blocks(pages)
        trial = Trial(pages.place, pages.give_back, blocks.run)
    if asked.record:
        calls = stream(asked.seed, asked.begin, asked.behind, asked.scenes, pages)
        child.serve(asked.record, calls, trial, lambda: {"blocks": blocks.count})
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
    environment |= (preloaded := preload(report))
    scenes = -(-(asked.checks or (QUICK if asked.quick else CHECKS)) // (2 * PER_SCENE * len(sets)))
    for number, isa in enumerate(sets):
        report.say(f"{isa}: {scenes * 2 * PER_SCENE:,} checks")
        own = [f"--seed={asked.seed + 1000 * number}"] + (
            [f"--path={asked.path}"] if asked.path else []
        )  # other calls for each
        variables = " ".join(f"{name}='{value}'" for name, value in {**preloaded, "IM2COLX_ISA": isa}.items())
        again = f"{variables} python checks/guard.py {' '.join(own)}"
        command = [*child.python(), str(Path(__file__).resolve()), own[0]]
        told = child.watch(
            report,
            command,
            {**environment, "IM2COLX_ISA": isa},
            scenes,
            lambda *at, again=again: f"{again} --only={at[0]}:{at[1]}",
        )
        if preloaded and told:
            report.say(f"{isa}: {told['blocks']:,} blocks of the library's own were guarded")
            report.check(told["blocks"], "guard_malloc.c was loaded, but no block was guarded")
    return report.finish()


def instruction_sets(environment):
    """Those of this machine, by asking the library."""
    code = "import im2colx; print(*im2colx.info()['cpu']['instruction_sets'])"
    environment = {name: value for name, value in environment.items() if name != "IM2COLX_ISA"}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()


if __name__ == "__main__":
    sys.exit(main())
