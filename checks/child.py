"""Calls in a child process: a crash or a hang ends the child only, and names the call that it was in.

The child writes each call into a record, a file that both processes map, before it runs it.  When the child dies, or stays in
one call too long, the parent reads the record, reports the call, and starts a child that goes on behind it.
"""

import contextlib
import faulthandler
import json
import mmap
import os
import re
import resource
import selectors
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZE = 1 << 16
_HEAD = struct.Struct("<qqqdi")  # scene, number, tried, when it began, bytes of the text
LONGEST = 5  # seconds in one call after which the child is ended
MOST_ALIKE, MOST_KINDS = 3, 60  # failures of one kind that are shown, and kinds
MOST_ENDS = 60  # of children, after which a run is given up
ROOM = 6 << 30  # bytes of address space: legal calls of small arrays need no more


class Record:
    """Which call runs, in a file that both processes map."""

    def __init__(self, path):
        with open(path, "r+b") as file:
            self._memory = mmap.mmap(file.fileno(), SIZE)

    def begin(self, scene, number, tried, text):
        data = text.encode(errors="replace")[: SIZE - _HEAD.size]
        self._memory[_HEAD.size : _HEAD.size + len(data)] = data
        _HEAD.pack_into(self._memory, 0, scene, number, tried, time.monotonic(), len(data))

    def read(self):
        """(scene, number, tried, seconds in the call, text)."""
        scene, number, tried, began, length = _HEAD.unpack_from(self._memory, 0)
        text = self._memory[_HEAD.size : _HEAD.size + length].decode(errors="replace")
        return scene, number, tried, time.monotonic() - began if began else 0.0, text


# ---- In the child ---------------------------------------------------------------------------------------------------


def tell(kind, value):
    print(json.dumps([kind, value]), flush=True)


def serve(record_path, calls, try_one, facts=dict):
    """Runs calls: `calls` yields (scene, number, call), `try_one(call)` gives (text, what is wrong), or None.

    At the end the parent is told `facts()`.
    """
    from calls import public_functions, uncovered

    faulthandler.enable()
    if not os.environ.get("LD_PRELOAD"):  # sanitizers, and guard_malloc.c, reserve more than they use
        resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM))
    record, tried, counts, told = Record(record_path), 0, {}, time.monotonic()
    for scene, number, call in calls:
        record.begin(scene, number, tried, call.text)
        wrong = try_one(call)
        tried += 1
        key = f"{call.name}{' !' if call.errors else ''}"
        counts[key] = counts.get(key, 0) + 1
        if wrong:
            tell("fail", [scene, number, *wrong])
        if time.monotonic() - told > 2:
            tell("counts", counts)
            counts, told = {}, time.monotonic()
    tell("counts", counts)
    for name, value in {"uncovered": uncovered(), "functions": public_functions(), **facts()}.items():
        tell(name, value)
    tell("done", tried)


# ---- In the parent --------------------------------------------------------------------------------------------------


class Alike:
    """Shows a few failures of each kind, and counts the rest."""

    def __init__(self, report):
        self._report, self._seen = report, {}

    def fail(self, text, wrong, again):
        kind = (text.split("(")[0], re.sub(r"\d+", "#", wrong.splitlines()[0])[:30])
        self._seen[kind] = self._seen.get(kind, 0) + 1
        self._report.tried += 1
        self._report.failed += 1
        if self._seen[kind] <= MOST_ALIKE and len(self._seen) <= MOST_KINDS:
            print(f"FAILED {self._report.name}: {text}\n    {wrong}\n    again: {again}", flush=True)

    def finish(self):
        for (name, wrong), count in self._seen.items():
            if count > MOST_ALIKE:
                self._report.say(f"{count:,} failures of {name} like: {wrong}")


def watch(report, command, environment, scenes, repeat, slower=1.0, say_every=30):
    """Runs `command` until all scenes are done, and reports what it fails in.

    Parameters
    ----------
    command : list of str
        The child; it is told --record FILE --begin SCENE --behind NUMBER --scenes COUNT.
    repeat : callable
        repeat(scene, number) is what runs one call again.

    Returns
    -------
    dict
        What the child told: "calls", name → how often, and its facts.  Empty if a child ended on the way.
    """
    counts, facts, ends, said, alike = {}, {}, 0, time.monotonic(), Alike(report)
    begin, behind = 0, -1
    with tempfile.TemporaryDirectory() as folder:
        path, errors = Path(folder, "record"), Path(folder, "errors")
        while True:
            path.write_bytes(bytes(SIZE))
            record = Record(path)
            arguments = ["--record", path, "--begin", begin, "--behind", behind, "--scenes", scenes]
            with open(errors, "wb") as log:
                child = subprocess.Popen(
                    [*command, *map(str, arguments)], stdout=subprocess.PIPE, stderr=log, env=environment, text=False
                )
            with child:
                completed, told, verdict = None, 0, None
                for line in _lines(child, record, LONGEST * slower):
                    if line is None:
                        verdict = f"was still running after {LONGEST * slower:g} s"
                        _end(child)
                        break
                    kind, value = line
                    if kind == "fail":
                        told += 1
                        scene, number, text, wrong = value
                        alike.fail(text, wrong, repeat(scene, number))
                    elif kind == "counts":
                        for name, count in value.items():
                            counts[name] = counts.get(name, 0) + count
                    elif kind == "done":
                        completed = value
                    else:
                        facts[kind] = value
                    if time.monotonic() - said > say_every:
                        said = time.monotonic()
                        report.say(
                            f"{record.read()[0]:,} of {scenes:,} scenes, {sum(counts.values()):,} calls, {report.failed} failed"
                        )
            scene, number, tried, _, text = record.read()
            report.passed((tried if completed is None else completed) - told)
            if completed is not None and child.returncode == 0:
                break
            code = child.returncode
            if verdict is None:
                verdict = (
                    f"ended the process by {signal.Signals(-code).name}" if code < 0 else f"ended the process with code {code}"
                )
            alike.fail(text or "the start", verdict + _told(errors), repeat(scene, number))
            # The other calls of this scene would most likely end the same way.
            begin, behind, ends = scene + 1, -1, ends + 1
            if ends == MOST_ENDS or not text:
                report.say(f"given up: {ends} children have ended")
                break
    alike.finish()
    report.say("calls (! are illegal): " + ", ".join(f"{name} {counts[name]:,}" for name in sorted(counts)))
    for name in facts.get("uncovered", ()):
        report.fail(f"{name} is public, and nothing in checks/ makes calls of it")
    return {} if ends else {**facts, "calls": counts}


def _told(errors):
    """The lines of a child's last words that name code."""
    lines = errors.read_text(errors="replace").splitlines()
    kept = [line for line in lines if re.search(r"Error|ERROR|SUMMARY|^ *#[0-9] |File .*im2colx|runtime error", line)]
    return "".join(f"\n      {line[:200]}" for line in kept[:12])


def _lines(child, record, longest):
    """What the child tells; None if it stays in one call too long."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            if selector.select(0.5):
                data = os.read(child.stdout.fileno(), SIZE)
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    with contextlib.suppress(ValueError):
                        yield json.loads(line)
            elif record.read()[3] > longest:
                yield None


def _end(child):
    """Ends a child that hangs: first so that it tells where."""
    child.send_signal(signal.SIGABRT)
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        child.kill()


def child_arguments(parser_settings):
    """The hidden options of a child, for `common.arguments`."""
    for name in ("record", "begin", "behind", "scenes"):
        kind = str if name == "record" else int
        parser_settings[name] = {"type": kind, "help": "for the child process"}
    return parser_settings


def python():
    return [sys.executable, "-W", "ignore"]
