"""Kill the experiment at random moments, resume it each time, and compare the end with an unbroken run, bit for bit.

    python bench/kills.py --kills 50

Whatever follows ``--`` goes to ``im2colx experiment``; by default a short run that is long enough to be hit.  A kill is a
SIGKILL: the process can do nothing about it.  Should a run end before all kills are used, another is begun.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OPTIONS = ["--epochs", "6", "--optimizer", "adam", "--checkpoint-seconds", "0.5"]
SLOWEST = 6.0  # seconds after which a run is killed at the latest; starting takes one or two of them


def command(options, out):
    return [sys.executable, "-m", "im2colx", "experiment", *options, "--out", str(out)]


def killed(options, out, rng, kills):
    """Run to the end in spite of `kills` kills at most; return how many there were, and how many struck a write."""
    struck = writes = 0
    while True:
        child = subprocess.Popen([*command(options, out), "--resume"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            error = child.communicate(timeout=rng.uniform(0, SLOWEST) if struck < kills else None)[1]
        except subprocess.TimeoutExpired:
            child.kill()
            error = child.communicate()[1]
        if child.returncode == 0:
            return struck, writes
        if child.returncode > 0:
            raise SystemExit(error.decode(errors="replace"))
        struck += 1
        parts = list(Path(out).glob("**/.*.tmp"))
        writes += bool(parts)
        print(f"kill {struck}{f' while {parts[0].name[1:].split(chr(46))[0]} was written' if parts else ''}", flush=True)


def outcome(out):
    """Everything in metrics.json that does not depend on the clock or on the folder."""
    metrics = json.loads((Path(out) / "metrics.json").read_text(encoding="utf-8"))
    del metrics["settings"]["command"]
    for result in metrics.values():
        for network in ("cnn", "fc"):
            if network in result:
                seconds = result[network].pop("epoch_seconds")
                if not all(value > 0 for value in seconds):
                    raise SystemExit(f"an epoch took no time: {seconds}")
    return metrics


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], epilog="Options of the experiment follow --.")
    parser.add_argument("--kills", type=int, default=50, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default %(default)s)")
    arguments = sys.argv[1:]
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    args, options = parser.parse_args(own), arguments[len(own) + 1 :] or OPTIONS
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="im2colx-kills-") as folder:
        start = time.perf_counter()
        unbroken = subprocess.run(command(options, f"{folder}/unbroken"), capture_output=True)
        if unbroken.returncode:
            raise SystemExit(unbroken.stderr.decode(errors="replace"))
        print(f"unbroken run: {time.perf_counter() - start:.1f} s", flush=True)
        expected = outcome(f"{folder}/unbroken")
        struck = writes = runs = 0
        while struck < args.kills:
            more, hit = killed(options, f"{folder}/killed", rng, args.kills - struck)
            struck, writes, runs = struck + more, writes + hit, runs + 1
            found = outcome(f"{folder}/killed")
            if found != expected:
                print(json.dumps({"expected": expected, "found": found}, indent=1))
                raise SystemExit("NOT equal to the unbroken run")
            left = [path.name for path in Path(folder, "killed").iterdir()]
            if sorted(left) != sorted(path.name for path in Path(folder, "unbroken").iterdir()):
                raise SystemExit(f"files are left over: {left}")
            shutil.rmtree(f"{folder}/killed")
    hashes = {name: result["weights_sha256"] for name, result in expected.items() if "weights_sha256" in result}
    print(f"{struck} kills in {runs} run{'s' * (runs != 1)}, {writes} of them while a file was written:"
          " weights, losses and distances are equal to those of the unbroken run, to the last bit")
    print(json.dumps(hashes, indent=1))


if __name__ == "__main__":
    main()
