"""Random calls of every public function, legal and not.

    from calls import *        # what a printed call needs to run again

`legal` and `broken` make calls of a `Scene`; `uncovered` names what nobody makes calls of.
"""

import inspect

import legal as _legal  # noqa: F401  its makers register themselves
import legal_matrix as _legal_matrix  # noqa: F401
import legal_nn as _legal_nn  # noqa: F401
from arrays import *  # noqa: F403
from broken import broken as _broken
from call import COVERED, LEFT_OUT, NAMES, Call, legal, parameters
from scenes import Scene

import im2colx

globals().update({name: value for name, value in NAMES.items() if name != "__version__"})


def broken(r, scene):
    """A random call with one thing broken."""
    return _broken(r, scene, parameters)


def public_names():
    """Every public function, and every public attribute of a public class, by asking the package."""
    names = set()
    for name in im2colx.__all__:
        thing = getattr(im2colx, name)
        names.add(name)
        if inspect.isclass(thing):
            owners = [owner for owner in thing.__mro__ if owner.__module__.startswith("im2colx")]
            names.update(f"{name}.{part}" for owner in owners for part in vars(owner) if not part.startswith("_"))
    return names


def public_functions():
    return [name for name in im2colx.__all__ if inspect.isfunction(getattr(im2colx, name))]


def uncovered():
    """Public names that no maker is about."""
    return sorted(public_names() - COVERED - set(LEFT_OUT) - {"__version__"})


__all__ = [
    "COVERED",
    "NAMES",
    "Call",
    "Scene",
    "broken",
    "legal",
    "uncovered",
    *(name for name in NAMES if name != "__version__"),
]
