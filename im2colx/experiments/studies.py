"""The studies: what ``im2colx experiment`` runs when a word follows it.

Each is a module with `add_arguments(parser)` and `run(args)`.  Adding one is such a module and a row of the table.
"""

import argparse
from typing import NamedTuple

from .classifier import _cli as classifier
from .morphism import _cli as morphism
from .question import _cli as question
from .uncertainty import _cli as uncertainty


class Study(NamedTuple):
    """A row of the table."""

    name: str
    text: str
    module: object


STUDIES = (
    Study("classifier", "a network that reads handwritten digits, and reads them again with an FC layer for a CONV layer", classifier),
    Study("question", "why do the curves of the paper's two networks part under Adam?", question),
    Study("uncertainty", "dropout and Bayes from FC layers on CONV layers: doubt on turned and foreign images", uncertainty),
    Study("morphism", "make a trained network wider and deeper without changing its function, by FC algebra", morphism),
)


def add_studies(parser):
    """Give the parser of ``im2colx experiment`` a command for each study; without one, it does what it does."""
    commands = parser.add_subparsers(
        dest="study", metavar="study", action=_Words, title="other studies",
        description="im2colx experiment STUDY --help lists the options of each",
    )
    for study in STUDIES:
        part = commands.add_parser(study.name, help=study.text)
        study.module.add_arguments(part)
        part.set_defaults(run=study.module.run)


class _Words(argparse._SubParsersAction):
    """Refuses options before the word: argparse would take them for those of the paper's experiment, and forget them."""

    def __call__(self, parser, namespace, values, option_string=None):
        for name, value in vars(namespace).items():
            if value != parser.get_default(name):
                parser.error(f"--{name} stands before {values[0]!r}: options of a study follow its name")
        super().__call__(parser, namespace, values, option_string)
