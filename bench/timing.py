"""The layers that are measured: one network a file in bench/layers, one layer a line."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

LAYERS = Path(__file__).parent / "layers"


class Layer(NamedTuple):
    name: str
    n: int
    c: int
    h: int
    w: int
    f: int
    kh: int
    kw: int
    stride: int
    pad: int | tuple  # of both axes, or of rows and columns
    dilation: int
    groups: int

    def arrays(self, dtype="float32"):
        """x and w with standard normal entries."""
        rng = np.random.default_rng(0)
        x, w = (self.n, self.c, self.h, self.w), (self.f, self.c // self.groups, self.kh, self.kw)
        return tuple(rng.standard_normal(shape).astype(dtype) for shape in (x, w))

    @property
    def arguments(self):
        """What conv2d takes after x and w."""
        return self.stride, self.pad, self.dilation, self.groups

    @property
    def pads(self):
        """Of rows and columns."""
        return (self.pad, self.pad) if isinstance(self.pad, int) else tuple(self.pad)

    @property
    def y_shape(self):
        sizes = zip((self.h, self.w), (self.kh, self.kw), self.pads, strict=True)
        space = ((size + 2 * pad - self.dilation * (kernel - 1) - 1) // self.stride + 1 for size, kernel, pad in sizes)
        return self.n, self.f, *space

    @property
    def multiply_adds(self):
        return math.prod(self.y_shape) * self.c // self.groups * self.kh * self.kw

    def tiny(self):
        """The same kind of layer, so small that a run takes no time."""
        groups = min(self.groups, 2)
        span = self.dilation * (max(self.kh, self.kw) - 1) + 1
        side = max(span, 4) + self.stride
        return self._replace(n=min(self.n, 2), c=2 * groups, h=side, w=side, f=2 * groups, groups=groups)


def read_layers(path):
    """The layers of a file: a name and eleven integers a line (the pad may be two: 0,3); what follows # is a comment."""
    layers = []
    for number, line in enumerate(Path(path).read_text().splitlines(), 1):
        name, *numbers = line.split("#")[0].split() or [None]
        if name is None:
            continue
        if len(numbers) != len(Layer._fields) - 1:
            raise ValueError(f"{path}, line {number}: {len(numbers)} numbers, but {len(Layer._fields) - 1} are needed")
        sizes = [tuple(map(int, number.split(","))) for number in numbers]
        layers.append(Layer(name, *(size if len(size) > 1 else size[0] for size in sizes)))
    return layers


def all_layers(*networks):
    """Every layer of every file, or of the files of these networks, by name."""
    return {layer.name: layer for name in networks or all_networks() for layer in read_layers(LAYERS / f"{name}.txt")}


def all_networks():
    """The names of the files."""
    return sorted(path.stem for path in LAYERS.glob("*.txt"))
