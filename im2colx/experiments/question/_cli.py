"""The command ``im2colx experiment question``: its options, and what it writes."""

import contextlib
import json

from im2colx import datasets

from .. import _checkpoints, _drawing, _run
from . import EPOCHS, SEEDS, figures, report, study
from .verdict import Findings, judge

DESCRIPTION = """\
Why do the curves of the paper's two networks part under Adam?  Train them side by side in cases that differ in one thing
each (the same products; other products; float64; larger ε; larger and smaller steps) and tell what the numbers show.

Writes into the folder --out, each file whole or not at all:
  question.html   the answer, with figures; opens in any browser, needs no network
  question.json   settings and all numbers
  question_*.png  the figures

It takes about 15 minutes and 2 GB on two cores.  Finished parts, and a checkpoint of the one under way, are kept in
OUT/checkpoints and removed at the end.  After an interruption, the same command with --resume goes on from them and gives
the numbers of an unbroken run.
"""


def add_arguments(parser):
    """Give an `argparse.ArgumentParser` the description and the options of the study."""
    add = parser.add_argument
    add(
        "--epochs", type=_run.integer(2, 10**4), default=EPOCHS, metavar="N",
        help="passes over the training images (default %(default)s; for SGD at the paper's rate fewer)",
    )
    add("--seeds", type=_run.integer(1, 1000), default=SEEDS, metavar="N", help="how many (default %(default)s)")
    add(
        "--images", type=_run.integer(1, 59000), default=study.Settings.images, metavar="N",
        help="images to train on (default %(default)s, as in the paper)",
    )
    _run.add_common(parser, DESCRIPTION, seed=study.Settings.seed, out="im2colx-question")
    _checkpoints.add_arguments(parser)


def run(args):
    """Run the study with the parsed arguments; the exit code as of `_run.guarded`."""
    return _run.guarded(
        "experiment question",
        lambda: _question(args),
        interrupted=f"To go on:\n  {_run.to_resume(_command(args))}",
        memory="; the study needs about 2 GB",
    )


def _question(args):
    _drawing.require_matplotlib()  # rather now than after the training
    digits = datasets.load_mnist(args.data)
    settings = study.Settings(args.epochs, args.seeds, args.seed, args.images)
    with _run.prepared(args):
        return _question_into(args, settings, digits)


def _question_into(args, settings, digits):
    results = train(args.out, settings, digits, args.checkpoint_seconds, args.resume)
    facts = {**describe(settings), **_run.surroundings(digits.source), "command": _command(args)}
    found = Findings(results, settings.images)
    light, dark = (figures.draw(found, dark=dark) for dark in (False, True))
    _run.write(args.out, light | {"question.html": report.page(found, facts, light, dark)})
    _run.write(args.out, {"question.json": dumps(facts, results)})
    checkpoints = folder(args.out, settings, digits)
    checkpoints.remove()
    with contextlib.suppress(OSError):  # something else may be in it
        checkpoints.folder.parent.rmdir()
    for title, verdict in judge(found).items():
        print(f"{title} {verdict.title}" if title.endswith("?") else f"{title}: {verdict.title}")
    print(f"Report: {args.out / 'question.html'}")
    return 0


def train(out, settings, digits, checkpoint_seconds, resume):
    """Train with checkpoints in a folder of `out`; return the results as `study.run` does."""
    checkpoints = folder(out, settings, digits)
    resuming = checkpoints.open(resume)
    print(f"Digits: {digits.source['name']}. {len(study.units(settings))} trainings of 2 to 4 networks.", flush=True)
    if resume and not resuming:
        print(f"No checkpoints in {checkpoints.folder}: starting with the first training.", flush=True)
    return study.run(
        settings, digits, folder=checkpoints.folder, checkpoint_seconds=checkpoint_seconds, resume=resuming
    )


def tell(settings, results, surroundings, long):
    """Tell the study in the report of another run.

    Parameters
    ----------
    settings, results
        Of the study.
    surroundings : dict
        Of the other run: ``data``, ``versions``, ``machine`` and ``command`` hold for the study too.
    long : dict
        As `figures.draw` takes it.

    Returns
    -------
    section : str
        Of the page; the figures are in it, and not in files of their own.
    numbers : str
        The contents of ``question.json``.
    """
    found = Findings(results, settings.images)
    light, dark = (figures.draw(found, dark=dark, long=long) for dark in (False, True))
    facts = describe(settings) | {key: surroundings[key] for key in ("data", "versions", "machine", "command")}
    return report.section(found, light, dark), dumps(facts, results)


def folder(out, settings, digits):
    """The folder of the checkpoints of the study."""
    names = [study.file_name(case, seed) for case, seed in study.units(settings)]
    known = describe(settings) | {"digits": digits.source["name"].partition(",")[0]}
    return _checkpoints.Checkpoints(out / "checkpoints" / "question", [*names, study.UNDER_WAY], known)


def describe(settings):
    """The settings as they are written down."""
    return {"epochs": settings.epochs, "seeds": settings.seeds, "seed": settings.seed, "images": settings.images}


def dumps(facts, results):
    """The contents of ``question.json``: a line for the facts and one for each result, five digits of every number."""
    lines = ",\n".join(json.dumps(_rounded(result), separators=(",", ":")) for result in results)
    return f'{{"settings": {json.dumps(facts)},\n"results": [\n{lines}\n]}}\n'


def _rounded(value):
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return [_rounded(entry) for entry in value] if isinstance(value, list) else value


def _command(args):
    return _run.command("experiment question", args, ("epochs", "seeds", "seed", "images", "data", "out"))
