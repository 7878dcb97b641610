"""Random calls of every public function against the slow twin: results, errors and their messages, time, bits, signals.

Half of the calls are legal and half are not.  Legal ones must give what im2colx/_reference.py gives; among them are giants,
whose strides, pads, dilations and arrays are huge and whose outputs are few.  Illegal ones must raise a documented exception
at once, whose message names the argument and shows the numbers.  Nothing may end the process, take a second, or change an
input.
"""

import os
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import child
import common

PER_SCENE = 48  # calls: the twin's answers are shared by them
FLAVOURS = ("small",) * 11 + ("large",) * 2 + ("giant",) * 4 + ("wide",) * 2 + ("extreme",) * 2 + ("normal",) * 2
QUICK = 150_000


def settings():
    options = {
        "calls": {"type": int, "help": f"how many (default 1,000,000; {QUICK:,} with --quick)"},
        "path": {"help": "a folder from which im2colx is imported: a build apart"},
        "isa": {"help": "the instruction set of the microkernels, as IM2COLX_ISA"},
        "planning_ms": {"type": float, "default": 1.0, "help": "the most that planning may take, in ms (default 1)"},
        "slower": {"type": float, "default": 1.0, "help": "by how much everything may be slower, for sanitizers (default 1)"},
        "only": {"metavar": "SCENE:NUMBER", "help": "run one call of --seed again, here"},
    }
    return child.child_arguments(options)


def calls_of(seed, scene_number):
    """(number, call) of a scene: even ones are legal, odd ones are not."""
    import calls
    from bits import same_bits
    from scenes import Scene

    r = random.Random(f"{seed}:{scene_number}")
    scene = Scene(r, r.choice(FLAVOURS))
    if scene.flavour == "normal":
        yield from enumerate(same_bits(r, scene, PER_SCENE))
        return
    for number in range(PER_SCENE):
        r = random.Random(f"{seed}:{scene_number}:{number}")
        yield number, (calls.broken if number % 2 else calls.legal)(r, scene)


def stream(seed, begin, behind, scenes):
    for scene in range(begin, scenes):
        for number, call in calls_of(seed, scene):
            if scene > begin or number > behind:
                yield scene, number, call


def main():
    asked = common.arguments("fuzz", __doc__, **settings())
    if asked.record or asked.only:
        from trial import Trial

        trial = Trial(planning_ms=asked.planning_ms * asked.slower, slower=asked.slower)
    if asked.record:
        child.serve(asked.record, stream(asked.seed, asked.begin, asked.behind, asked.scenes), trial)
        return 0
    if asked.only:
        scene, number = map(int, asked.only.split(":"))
        call = dict(calls_of(asked.seed, scene))[number]
        print(call.text, flush=True)
        wrong = trial(call)
        print("\n    ".join(wrong) if wrong else "passed")
        return 1 if wrong else 0
    report = common.Report("fuzz")
    environment = common.environment_of(asked.path) if asked.path else dict(os.environ)
    if asked.isa:
        environment["IM2COLX_ISA"] = asked.isa
    own = [f"--seed={asked.seed}", f"--planning-ms={asked.planning_ms}", f"--slower={asked.slower}"]
    again = [f"--{name}={value}" for name, value in (("path", asked.path), ("isa", asked.isa)) if value]
    scenes = -(-(asked.calls or (QUICK if asked.quick else 1_000_000)) // PER_SCENE)
    script = str(Path(__file__).resolve())

    def repeat(scene, number):
        return " ".join(["python checks/fuzz.py", f"--seed={asked.seed}", *again, f"--only={scene}:{number}"])

    told = child.watch(report, [*child.python(), script, *own], environment, scenes, repeat, asked.slower)
    for name in told.get("functions", ()) if report.tried > 50_000 else ():
        report.check(told["calls"].get(name), f"{name} is public, and was never called")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
