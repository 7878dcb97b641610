"""Which instruction set the microkernels use: the best that this machine has, unless the environment asks for less."""

import os

from im2colx import _core

VARIABLE = "IM2COLX_ISA"


def apply_environment():
    """Lower the instruction set to the one that ``IM2COLX_ISA`` names; ValueError if this machine has none of that name."""
    name = os.environ.get(VARIABLE)
    if name is not None and not _core.set_isa(name):
        names = ", ".join(_core.instruction_sets())
        raise ValueError(f"the environment's {VARIABLE} is {name!r}, but this machine has only {names}")


apply_environment()
