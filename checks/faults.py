"""What happens when memory, threads or the disk run out, at fork, at Ctrl-C, at kill -9; and leaks.

Each part is a process of its own, checks/fault_cases/PART.py.
"""

import sys

from common import Report, arguments
from fault_cases import child, shim

PARTS = ("memory", "processes", "interrupts", "files", "leaks")


def main():
    args = arguments("faults", __doc__, parts={
        "nargs": "*", "choices": PARTS, "default": list(PARTS), "metavar": "PART", "help": f"of {', '.join(PARTS)} (default all)",
    })  # fmt: skip
    report = Report("faults")
    size = "quick" if args.quick else "full"
    missing = shim.build()
    if missing:
        report.say(f"left out: what needs checks/c/failing.c, which cannot be built or loaded here ({' '.join(missing.split())})")

    def part(name, *words, needs_shim=False, **more):
        if name in args.parts and not (needs_shim and missing):
            report.say(f"{name} {' '.join(map(str, words))}")
            child.run(report, name, *words, environment=shim.environment(**more) if needs_shim else None, timeout=600 if args.quick else 7200)

    for where in ("core", "numpy", "threads"):
        part("memory", where, size, needs_shim=True)
    part("memory", "limit", size)
    for case in ("forks", "handlers", "threads", "starts"):
        part("processes", case, size, args.seed)
    part("interrupts", size, args.seed)
    part("files", "errors", size, args.seed, needs_shim=True)
    for case in ("kills", "full", "limit"):
        part("files", case, size, args.seed)
    part("leaks", size, args.seed)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
