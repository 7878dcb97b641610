"""Runs every check in turn, each in a process of its own, and prints their last lines together.

    python checks/all.py [--quick] [--seed N] [NAME ...]
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
# In this order: what fails fastest comes first.
CHECKS = ("geometry", "fuzz", "guard", "readers", "stranger", "faults", "sanitize", "mutate", "cover")


def main():
    parser = argparse.ArgumentParser(prog="python checks/all.py", description="Run every check in turn.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"these checks only: {', '.join(CHECKS)}")
    parser.add_argument("--quick", action="store_true", help="the half of each that every change runs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if unknown := set(options.names) - set(CHECKS):
        parser.error(f"there is no check {', '.join(sorted(unknown))}, but {', '.join(CHECKS)}")
    lines, failed = [], []
    start = time.monotonic()
    for name in options.names or CHECKS:
        command = [sys.executable, str(FOLDER / f"{name}.py"), "--seed", str(options.seed), *["--quick"] * options.quick]
        print(f"+ python checks/{name}.py{' --quick' * options.quick} --seed {options.seed}", flush=True)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace")
        last = ""
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
        if process.wait():
            failed.append(name)
            last += f"  (exit code {process.returncode})"
        lines.append(last)
    print("\n".join(["", *lines, ""]))
    print(f"checks: {len(lines) - len(failed)} passed, {len(failed)} failed{': ' if failed else ''}{', '.join(failed)}, "
          f"{(time.monotonic() - start) / 60:.1f} min")  # fmt: skip
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
