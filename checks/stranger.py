"""What holds where the library is unusual: other instruction sets, compilers, versions, integers, processors, few CPUs.

    python checks/stranger.py [--quick] [--only PART] [--seed N]

What a part needs it looks for, and downloads under build/checks: virtual environments, zig, a Debian for arm64.  Where
something cannot be had, one line says what was left out and why, and the rest is done.
"""

import sys

from common import Report, arguments, build
from strange import builds, foreign, machine

# What does it, and whether --quick has it too: about two minutes in all.
PARTS = {
    "isa": (machine.instruction_sets, True),
    "one-cpu": (machine.one_cpu, True),
    "threads": (machine.num_threads, True),
    "quota": (machine.quota, True),
    "ilp64": (builds.long_integers, True),
    "core": (foreign.core_here, True),
    "core-aarch64": (foreign.core_aarch64, True),
    "compiler": (builds.other_compiler, True),
    "versions": (builds.versions, False),
    "elsewhere": (foreign.core_elsewhere, False),
    "aarch64": (foreign.python_aarch64, False),
}


def main():
    options = arguments(
        "stranger",
        __doc__.splitlines()[0],
        only={"nargs": "+", "choices": list(PARTS), "metavar": "PART", "help": f"of {', '.join(PARTS)}"},
    )
    report = Report("stranger")
    path = build("plain")
    for name, (part, is_quick) in PARTS.items():
        if name not in options.only if options.only else options.quick and not is_quick:
            continue
        print(f"stranger: {name} ({part.__doc__.splitlines()[0]}) at {report.seconds / 60:.1f} min", flush=True)
        part(report, path, options)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
