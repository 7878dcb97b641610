"""The morphs of the study, from `algebra`, applied to parts of a network.

Each takes a network and returns a larger one.  With ``preserve=False`` the weights that the morph would choose are
drawn at random instead, as a new network starts: the control, which shows what the choice is worth.
"""

from typing import NamedTuple

import numpy as np

from . import algebra
from .network import RELU, Part, conv, he_uniform


def widen(parts, index, following, width, rng, preserve=True):
    """Give the layer at `index` more units, and the next layer with weights, at `following`, the inputs for them."""
    first, second = parts[index], parts[following]
    units = first.weight.shape[1]
    copy, share = algebra.widening(units, width, rng)
    weight, bias, weight_2 = algebra.widened(first.weight, first.bias, second.weight, copy, share)
    if not preserve:
        weight, bias = first.weight @ copy, bias.copy()
        weight[:, units:] = he_uniform(rng, len(weight), width - units)
        bias[units:] = 0
        old = second.weight.reshape(-1, units, second.weight.shape[1])
        new = he_uniform(rng, len(old) * (width - units), old.shape[2], len(weight_2)).reshape(len(old), -1, old.shape[2])
        weight_2 = np.concatenate([old, new], axis=1).reshape(weight_2.shape)
    changed = {index: first._replace(weight=weight, bias=bias), following: second._replace(weight=weight_2)}
    return tuple(changed.get(i, part) for i, part in enumerate(parts))


def enlarge(parts, index, kernel, rng, preserve=True):
    """Give the CONV layer at `index` a larger kernel, and the padding that keeps its output where it was."""
    part = parts[index]
    embedding = algebra.embedding(part.kernel, kernel, len(part.weight) // part.kernel**2)
    weight = embedding @ part.weight
    if not preserve:
        frame = ~embedding.any(axis=1)
        weight[frame] = he_uniform(rng, np.count_nonzero(frame), weight.shape[1], len(weight))
    pad = part.pad + (kernel - part.kernel) // 2
    return (*parts[:index], conv(weight, part.bias, kernel, part.stride, pad), *parts[index + 1 :])


def deepen(parts, index, kernel, channels, rng, preserve=True):
    """Put a CONV layer that changes nothing, and a ReLU, behind the ReLU at `index`."""
    weight = algebra.identity(kernel, channels) if preserve else he_uniform(rng, kernel**2 * channels, channels)
    new = conv(weight, np.zeros(channels), kernel, pad=kernel // 2)
    return (*parts[: index + 1], new, RELU, *parts[index + 1 :])


def decompose(parts, index, sides, middle, rng, preserve=True):
    """Make two CONV layers of the one at `index`, with `middle` channels and a `Slope` between.

    All padding goes to the first and the stride to the second: then the second sees, at the border too, what the
    whole kernel would.
    """
    part = parts[index]
    channels = len(part.weight) // part.kernel**2
    first = he_uniform(rng, sides[0] ** 2 * channels, middle)
    if preserve:
        second = algebra.decomposed(part.weight, first, sides, channels)
    else:
        second = he_uniform(rng, sides[1] ** 2 * middle, part.weight.shape[1])
    new = (
        conv(first, np.zeros(middle), sides[0], pad=part.pad),
        Part("slope", np.ones(1)),
        conv(second, part.bias, sides[1], part.stride),
    )
    return (*parts[:index], *new, *parts[index + 1 :])


class Morph(NamedTuple):
    """A step of the study."""

    name: str
    text: str  # what it does to the base network
    apply: object  # (parts, rng, preserve) -> parts


def _widen_both(parts, rng, preserve=True):
    return widen(widen(parts, 0, 2, 12, rng, preserve), 2, 5, 24, rng, preserve)


MORPHS = (
    Morph("widen", "CONV 1 from 6 to 12 filters, CONV 2 from 12 to 24", _widen_both),
    Morph(
        "enlarge", "the kernel of CONV 1 from 3 × 3 to 5 × 5",
        lambda parts, rng, preserve=True: enlarge(parts, 0, 5, rng, preserve),
    ),
    Morph(
        "deepen", "a new CONV layer of 24 filters, 3 × 3, behind CONV 2",
        lambda parts, rng, preserve=True: deepen(parts, 3, 3, 24, rng, preserve),
    ),
    Morph(
        "decompose", "CONV 1 of 5 × 5 becomes two of 3 × 3, with 8 channels between",
        lambda parts, rng, preserve=True: decompose(parts, 0, (3, 3), 8, rng, preserve),
    ),
)


def base(rng):
    """The network that the study starts from: CONV 6 and CONV 12 filters 3 × 3, stride 2, then FC 10."""
    return (
        conv(he_uniform(rng, 9, 6), np.zeros(6), 3, stride=2, pad=1),
        RELU,
        conv(he_uniform(rng, 54, 12), np.zeros(12), 3, stride=2, pad=1),
        RELU,
        Part("flatten"),
        Part("dense", he_uniform(rng, 7 * 7 * 12, 10), np.zeros(10)),
    )
