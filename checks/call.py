"""What a call is: how it is written, made and run; and the list of those who make calls.

A call is a template, such as "PatchMatrix({call}) @ {other}", and the values for its names; `call` holds the arguments of the
function.  Arrays are given as `Laid`, and made when the call is run, so that a call can be printed, changed, and run again.
"""

import functools
import inspect
import math

import numpy as np
import twin
from arrays import Laid, Over, Raw, Wrapped, array, build, gaps_are_untouched, on_a_line, over

import im2colx
from im2colx import nn

# What the text of a call may speak of; whoever makes calls adds to it.
NAMES = {name: getattr(im2colx, name) for name in im2colx.__all__}
NAMES.update(im2colx=im2colx, nn=nn, np=np, nan=math.nan, inf=math.inf, array=array, over=over, Wrapped=Wrapped)

# Of public classes: what no call here reaches, and why.
LEFT_OUT = {
    "Explanation.figure": "matplotlib takes half a second; tests/test_explain.py draws",
    "Explanation.png": "as figure",
    "Explanation.save": "writes a file; tests/test_explain.py",
}


class Call:
    """One call: how it is written, and what it must give.

    Attributes
    ----------
    name : str
        The public function, or method of a class, that it is about.
    template : str
    values : dict
        name → value; "call" holds (how many are given by position, {argument: value}).
    verdict : callable
        verdict(result, values, made) tells what is wrong with a result, or None.
    errors : tuple of exceptions
        One of which must be raised; empty for a legal call.
    mentions, shows : tuple of str
        Of an error's message: one of each must stand in it.
    may_decline : str
        What a ValueError may say that declines the call; "" if none may.
    may_overflow : bool
        Whether OverflowError may be right.
    is_timed : bool
        Whether its time is that of planning.
    shape_of_out : tuple of int
        Where there is an argument `out`.
    """

    errors, mentions, shows = (), (), ()
    may_overflow = is_timed = False
    may_decline = ""
    shape_of_out = None

    def __init__(self, name, template, verdict, **values):
        self.name, self.template, self.verdict, self.values = name, template, verdict, values

    def changed(self, **values):
        """The same call with other values."""
        other = Call(self.name, self.template, self.verdict)
        other.__dict__.update(self.__dict__)
        other.values = {**self.values, **values}
        return other

    def with_arguments(self, drop=(), **named):
        count, old = self.values["call"]
        kept = {name: value for name, value in old.items() if name not in drop} | named
        order = list(old)[:count]
        count = next((i for i, name in enumerate(order) if name in drop), count)
        return self.changed(call=(count, kept))

    @property
    def text(self):
        words = {name: value if isinstance(value, Raw) else repr(value) for name, value in self.values.items()}
        if "call" in self.values:
            count, named = self.values["call"]
            parts = [f"{value!r}" if i < count else f"{name}={value!r}" for i, (name, value) in enumerate(named.items())]
            words["call"] = ", ".join(parts)
        return self.template.format(**words)

    def make(self, place=on_a_line):
        """A function that runs the call, and what was made for it: name → (array, memory), and the bytes before."""
        made, env = {}, dict(NAMES)

        def of(name, value):
            kind = type(value)
            if kind is Laid:
                value, memory = build(value, place)
                made[name] = (value, memory, memory.tobytes())
            elif kind is Raw:
                value = eval(_compiled(str(value)), NAMES)
            elif kind is dict:
                value = {part: of(part, given) for part, given in value.items()}
            elif kind is Over:
                value = over(made[value.name][0], *value[1:])
                made[name] = (value, None, None)
            return value

        for name, value in self.values.items():
            if name == "call":
                count, named = value
                arguments = [(argument, of(argument, given)) for argument, given in named.items()]
                env["given"], env["named"] = [given for _, given in arguments[:count]], dict(arguments[count:])
            else:
                env[name] = of(name, value)
        code = _compiled(_code_of(self.template))
        return functools.partial(eval, code, env), made


@functools.lru_cache(maxsize=4096)
def _compiled(text):
    return compile(text, "<call>", "eval")


@functools.lru_cache(maxsize=4096)
def _code_of(template):
    names = {part.split("}")[0]: part.split("}")[0] for part in template.split("{")[1:]}
    return template.format(**{**names, "call": "*given, **named"})


def spelled(r, function, named):
    """The value of "call": arguments in the order of the signature, the first few by position."""
    order = _parameters(function)
    named = {name: named[name] for name, _ in order if name in named}
    count = 0
    for (name, positional), given in zip(order, named, strict=False):
        if name != given or not positional:
            break
        count += 1
    return r.randint(0, count), named


def parameters(function):
    """The names that a function of the package takes; None if there is no such function."""
    return [name for name, _ in _parameters(function)] if function in NAMES else None


@functools.cache
def _parameters(function):
    parameters = inspect.signature(getattr(im2colx, function)).parameters.values()
    return [(p.name, p.kind is p.POSITIONAL_OR_KEYWORD) for p in parameters]


# ---- The list of makers ---------------------------------------------------------------------------------------------

MAKERS = []  # (weight, flavours, function)
COVERED = set()


def maker(weight, *covers, flavours=("small", "large", "giant", "wide", "extreme")):
    """Registers a function (r, scene) → Call or None, and the public names that its calls are about."""

    def register(function):
        MAKERS.append((weight, flavours, function))
        COVERED.update(covers)
        return function

    return register


def legal(r, scene):
    """A random legal call."""
    makers, weights = _makers_for(scene.flavour)
    while True:
        call = r.choices(makers, weights)[0](r, scene)
        if call is not None:
            return call


@functools.cache
def _makers_for(flavour):
    chosen = [(function, weight) for weight, flavours, function in MAKERS if flavour in flavours]
    return [function for function, _ in chosen], [weight for _, weight in chosen]


def equal(wanted, dtype, out=None):
    """A verdict: the result equals `wanted(values)` in `dtype(values)`, and is `out` if one was given."""

    def verdict(result, values, made):
        if out is not None and values["call"][1].get(out) is not None:
            target, memory, _ = made[out]
            if result is not target:
                return "is not out"
            if memory is not None and not gaps_are_untouched(target, memory):
                return "bytes of out's memory that belong to no element were written"
        return twin.differs(np.asarray(result) if isinstance(result, np.generic) else result, wanted(values), dtype(values))

    verdict.wanted, verdict.dtype = wanted, dtype
    return verdict
