"""Tests that cannot fail: changes what computes sizes and addresses, and asks that a test notices.

The changes are those of relations, arithmetic, limits by one, conditions, minima and maxima, and statements left out, in the C
and the Python that turn a stranger's numbers into sizes and addresses.  A change that nothing notices stands in
mutate_survivors.txt with the reason; the check fails for one that does not, and for a line there that no longer applies.
"""

import hashlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from _mutants import mutate_c, mutate_python
from common import BUILDS, ROOT, Report, arguments, build, environment_of

SURVIVORS = Path(__file__).with_name("mutate_survivors.txt")

ANY = "any"  # in place of a change: all changes of the line

LEFT = BUILDS / "mutate_left.txt"  # those that are not explained, as entries for that file but for the reason

# Sizes, the index map, slabs, tables and phases; in an order in which each file finds its headers' mutations done.  A file of
# which nothing is explained yet, as how the methods cut their work, can be added here and run by --only.
C_FILES = [
    "csrc/index_map.h", "csrc/bounds.c", "csrc/slab.c", "csrc/patches.c", "csrc/im2col.c", "csrc/csr.c",
    "csrc/implicit_tables.c", "csrc/implicit_input.c",
]  # fmt: skip
# Module → the headline of the part that is meant, or None for all of it.
PYTHON_FILES = {"im2colx/_geometry.py": None, "im2colx/_plan.py": "Exact integers"}

QUICK = 200  # mutants in about two minutes

SWITCH_H = """
extern __attribute__((visibility("default"))) int im2colx_mutant;
#define MUTANT(n) __builtin_expect(im2colx_mutant == (n), 0)
"""
SWITCH_C = "int im2colx_mutant;\n"
SWITCH_PYTHON = """import ctypes
import os

active = int(os.environ.get("IM2COLX_MUTANT", "0"))


def act(library, number):
    global active
    active = number
    ctypes.c_int.in_dll(ctypes.CDLL(library), "im2colx_mutant").value = number
"""
SWITCH_PACKAGE = """
from im2colx import _core, _mutant
_mutant.act(_core.__file__, _mutant.active)
"""


def instrument():
    """All mutations: the files that they change (path → text), and the mutants."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copytree(ROOT / "csrc", folder / "csrc")
        header = (ROOT / "csrc/im2colx.h").read_text() + SWITCH_H
        (folder / "csrc/im2colx.h").write_text(header)
        mutants = mutate_c({path: (ROOT / path).read_text() for path in C_FILES}, folder)
        texts = {path: (folder / path).read_text() for path in C_FILES}
    for path, section in PYTHON_FILES.items():
        texts[path], found = mutate_python(path, (ROOT / path).read_text(), section, mutants[-1].number + 1)
        mutants += found
    texts["csrc/im2colx.h"] = header
    texts["csrc/build_facts.c"] = (ROOT / "csrc/build_facts.c").read_text() + SWITCH_C
    texts["im2colx/_mutant.py"] = SWITCH_PYTHON
    texts["im2colx/__init__.py"] = (ROOT / "im2colx/__init__.py").read_text() + SWITCH_PACKAGE
    return texts, mutants


def built(texts):
    """Where the build with these files is."""

    def change(folder):
        for path, text in texts.items():
            (folder / path).write_text(text)

    return build("mutants", change=change, key=hashlib.sha256(repr(sorted(texts.items())).encode()).hexdigest())


def read_survivors():
    """(file, line, change) → reason.  An entry is four lines, and an empty one behind it; ANY stands for all of its line's changes."""
    known = {}
    if not SURVIVORS.is_file():
        return known
    for entry in SURVIVORS.read_text().split("\n\n"):
        lines = [line for line in entry.strip().splitlines() if not line.startswith("#")]
        if not lines:
            continue
        if len(lines) != 4 or not lines[3].strip():
            raise SystemExit(f"mutate: an entry of {SURVIVORS.name} has not four lines (file, line, change, reason):\n{entry}")
        path, line, what, reason = (text.strip() for text in lines)
        known[path, line, what] = reason
    return known


class Killers:
    """The process that tells which mutants are noticed."""

    def __init__(self, target):
        environment = environment_of(target, OPENBLAS_NUM_THREADS="1", MALLOC_PERTURB_="165")
        command = [sys.executable, str(Path(__file__).with_name("_killers.py"))]
        self._process = subprocess.Popen(command, env=environment, cwd=ROOT, stdin=-1, stdout=-1, text=True)
        self._answer()

    def _answer(self):
        line = self._process.stdout.readline().split(maxsplit=1)
        if not line or line[0] == "broken":
            raise SystemExit(f"mutate: without any mutation, {line[1].strip() if line else 'the killers'} fail")
        return line[1].strip()

    def notice(self, mutant):
        """What noticed the mutant, or "-"."""
        self._process.stdin.write(f"{mutant.number} {mutant.path}\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self):
        self._process.stdin.close()
        self._process.wait()


def main():
    args = arguments(
        "mutate", __doc__,
        only={"metavar": "TEXT", "help": "mutants of files and lines that contain TEXT, as 'slab.c' or 'csr.c:44'"},
        list={"action": "store_true", "help": "print the mutants, and run none"},
        again={"action": "store_true", "help": "run those that are explained in mutate_survivors.txt, too"},
    )  # fmt: skip
    report, known = Report("mutate"), read_survivors()
    texts, mutants = instrument()
    chosen = [m for m in mutants if args.only is None or args.only in f"{m.path}:{m.row}:"]
    if args.quick:
        chosen = random.Random(args.seed).sample(chosen, min(QUICK, len(chosen)))
    if args.list:
        print(*chosen, sep="\n")
        return 0
    report.say(f"{len(mutants):,} mutants of {len(C_FILES) + len(PYTHON_FILES)} files, {len(chosen):,} of them now")
    lines = {(mutant.path, mutant.line, ANY) for mutant in mutants}
    for key in known.keys() - {mutant.key for mutant in mutants} - lines:
        report.fail(f"{SURVIVORS.name} explains what no longer occurs: {' | '.join(key)}")
    killers, killed, explained, shown = Killers(built(texts)), Counter(), 0, time.monotonic()
    left = []
    for place, mutant in enumerate(chosen):
        is_any = (mutant.path, mutant.line, ANY) in known
        is_known = is_any or mutant.key in known
        if is_known and not args.again:
            explained += 1
            continue
        notice = killers.notice(mutant)
        if notice != "-":
            killed[notice] += 1
            report.passed()
            if is_known and not is_any:
                report.fail(f"{SURVIVORS.name} explains what is noticed, by {notice}: {mutant}")
        elif is_known:
            explained += 1
            report.passed()
        else:
            report.fail(f"nothing notices {mutant}")
            left.append(mutant)
            LEFT.write_text("".join(f"{m.path}\n{m.line}\n{m.what}\n\n\n" for m in left))
        if time.monotonic() - shown > 30:
            shown = time.monotonic()
            report.say(f"{place + 1:,} of {len(chosen):,}, {report.failed} survived, {report.seconds:.0f} s")
    killers.close()
    for name, count in killed.most_common():
        report.say(f"{count:,} noticed by {name}")
    report.say(f"{explained:,} explained in {SURVIVORS.name}")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
