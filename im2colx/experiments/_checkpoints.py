"""The folder of checkpoints of a long run, with a note of the settings that they belong to."""

import argparse
import contextlib
import json
import math

from im2colx import _files
from im2colx.nn.checkpoint import previous

SECONDS = 30  # a checkpoint shall not become older than this


def add_arguments(parser):
    """Give a parser the options of a run that can be interrupted."""
    parser.add_argument(
        "--checkpoint-seconds", type=_seconds, default=SECONDS, metavar="S",
        help="the most work that is lost if the run is killed, in seconds (default %(default)s)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoints of an interrupted run with the same settings"
    )


def _seconds(text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


class Checkpoints:
    """A folder that only goes on with what was begun with the same settings.

    Parameters
    ----------
    folder : pathlib.Path
        Made where it is missing.
    names : list of str
        The files that the run may put there.  No other file there is ever touched.
    settings : dict
        All that has a say in what the files hold: str, int, float, bool, and lists of these.
    nbytes : int
        What the files will take together at the end, as far as it is known.
    """

    def __init__(self, folder, names, settings, nbytes=0):
        self.folder = folder
        self._files = [folder / name for name in names]
        self._note = folder / "settings.json"
        self._settings = settings
        self._nbytes = nbytes

    def open(self, resume):
        """Make the folder ready; return whether there is something to go on from."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        is_going_on = resume and self._note.exists()
        if is_going_on:
            self._compare()
        # What is there already is replaced.
        _files.check_room(self.folder, self._nbytes - sum(file.stat().st_size for file in self._present()))
        if is_going_on:
            return self._any()
        if self._any():
            print(f"The checkpoints of an interrupted run in {self.folder} are given up; --resume goes on from such.", flush=True)
        self._unlink()
        _files.write_bytes(self._note, json.dumps(self._settings, indent=1) + "\n")
        return False

    def _any(self):
        return bool(self._present())

    def _present(self):
        return [part for file in self._files for part in (file, previous(file)) if part.exists()]

    def remove(self):
        """Remove what `open` and the run put there, and the folder unless something else is in it."""
        self._unlink()
        self._note.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _compare(self):
        try:
            before = json.loads(self._note.read_text(encoding="utf-8"))
            differences = [
                f"{name} was {before[name]}, is {value}"
                for name, value in self._settings.items()
                if before[name] != value
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self._note}: damaged ({error}); run without --resume to start anew") from error
        if differences:
            raise ValueError(
                f"--resume: the checkpoints in {self.folder} belong to other settings: {'; '.join(differences)}; "
                "run without --resume to start anew"
            )

    def _unlink(self):
        for file in self._files:
            file.unlink(missing_ok=True)
            previous(file).unlink(missing_ok=True)

    def _sweep(self):
        # A process that is killed while it writes a checkpoint leaves a nameless part of it, of up to 200 MB.
        for file in (*self._files, self._note):
            for name in (file.name, previous(file).name):
                for part in self.folder.glob(f".{name}.*.tmp"):
                    part.unlink(missing_ok=True)
