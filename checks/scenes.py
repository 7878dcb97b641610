"""Random convolutions: what the calls of one scene have in common, so that the twin answers once for many of them."""

import math

import numpy as np
from arrays import Laid, Raw, Values

from im2colx._selftest import Case

REAL = ("<f4", "<f8", "<f4", "<f8", "<f2", "<i1", "<i2", "<i4", "<i8")
NATURAL = ("<u1", "<u2", "<u4", "<u8", *REAL)
DTYPES = {
    "signed": REAL,
    "natural": NATURAL,
    "bits": ("?", "?", *NATURAL),
    "complex": ("<c8", "<c16"),
    "special": ("<f4", "<f8", "<f4", "<f2"),
    "normal": ("<f4", "<f8"),
}
# Numbers at which a size, or a product of two, leaves a type.
GIANTS = (2**8, 2**10 + 1, 10**6, 2**16, 2**20, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**33 + 1, 2**40 - 1, 2**40)
KINDS = ("signed", "signed", "signed", "natural", "bits", "complex", "special")


def _axis(r, most, kernels):
    """(size, kernel, stride, (before, after), dilation, word) of a small axis with at least one output."""
    while True:
        size, kernel = r.randint(0 if r.random() < 0.03 else 1, most), r.randint(1, kernels)
        stride, dilation = r.choice((1, 1, 1, 2, 2, 3, 4)), r.choice((1, 1, 1, 2, 3))
        pad = (r.randint(0, 3), r.randint(0, 3)) if r.random() < 0.6 else (0, 0)
        if size + sum(pad) >= dilation * (kernel - 1) + 1:
            return size, kernel, stride, pad, dilation


def _giant_axis(r, wide):
    """As `_axis`, with few outputs and at least one number that is huge.  If `wide`, the image is."""
    outputs, kernel = r.randint(1, 3), r.randint(1, 3)
    stride = r.choice(GIANTS) if r.random() < 0.7 else r.randint(1, 3)
    dilation = r.choice(GIANTS) if r.random() < 0.5 else r.randint(1, 3)
    rest = r.choice((0, 0, stride - 1, r.randrange(stride)))
    padded = (outputs - 1) * stride + dilation * (kernel - 1) + 1 + rest
    if wide and padded <= 2**44:
        before, after = min(r.randint(0, 3), padded - 1), 0
        after = min(r.randint(0, 3), padded - 1 - before)
        return padded - before - after, kernel, stride, (before, after), dilation
    size = min(r.randint(1, 6), padded)
    before = r.choice((0, padded - size, (padded - size) // 2, r.randint(0, padded - size), min(padded - size, 2**40)))
    return size, kernel, stride, (before, padded - size - before), dilation


def word_pads(word, size, kernel, stride, dilation):
    """What the words mean, as their documentation says."""
    span = dilation * (kernel - 1) + 1
    total = max(0, (math.ceil(size / stride) - 1) * stride + span - size)
    return {
        "valid": (0, 0),
        "half": (span // 2, span // 2),
        "full": (span - 1, span - 1),
        "same": (total // 2, total - total // 2),
        "same_upper": (total // 2, total - total // 2),
        "same_lower": (total - total // 2, total // 2),
    }[word]


class Scene:
    """One convolution: its sizes, the numbers of its arrays, and the words for them.

    Attributes
    ----------
    flavour : {"small", "large", "giant", "wide", "normal", "extreme"}
        Small numbers; sizes to 67; pads, strides and dilations to 2**40; also x of such a size, broadcast; any floats and work
        for several threads; the ends of integer types.
    case : Case
    layout, word : str
        `word` is the padding word, or "".
    given : {"batch", "image", "plane"}
        Which axes x has.
    kind : str
        Of the numbers.
    x, w, y : Values
        In the caller's axes; y is for gradients.
    for_core : bool
        Whether arrays are such that the C core reads them where they are, and mostly of float32 and float64.
    """

    def __init__(self, r, flavour="small", for_core=False):
        self.flavour, self.word, self.for_core = flavour, "", for_core
        self.layout = r.choice(("NCHW", "NHWC"))
        self.given = r.choice(("batch",) * 6 + ("image", "plane"))
        self.kind = {"normal": "normal"}.get(flavour) or r.choice(KINDS)
        self.windows = False
        self.constant = ()
        getattr(self, f"_{flavour}")(r)
        case = self.case
        self.output = tuple(
            (size + sum(case.pad[k]) - case.dilation[k] * (case.kernel[k] - 1) - 1) // case.stride[k] + 1
            for k, size in enumerate((case.h, case.w))
        )
        seeds = [r.randrange(2**32) for _ in range(3)]
        x_shape, w_shape = case.x_shape(self.layout), case.w_shape(self.layout)
        y_shape = (case.n, case.f, *self.output) if self.layout == "NCHW" else (case.n, *self.output, case.f)
        x_shape, y_shape = self.without_axes(x_shape), self.without_axes(y_shape)
        if self.given == "plane":
            w_shape = case.kernel
        if flavour == "small" and r.random() < 0.15:  # arrays that are broadcast, or that overlap themselves
            axes = self.space_of(x_shape)
            if r.random() < 0.4 and 0 not in x_shape:
                self.windows = True
            else:
                self.constant = tuple(a for a in range(len(x_shape)) if r.random() < 0.5)
        elif flavour == "wide":
            self.constant = tuple(a for a, size in enumerate(x_shape) if size > 64)
        axes = self.space_of(x_shape)
        self.x = Values(x_shape, self.kind, seeds[0], self.constant, axes if self.windows else ())
        w_constant = tuple(a for a in range(len(w_shape)) if r.random() < 0.3) if self.constant and flavour == "small" else ()
        self.w = Values(w_shape, self.kind, seeds[1], w_constant)
        self.y = Values(y_shape, self.kind, seeds[2])

    # ---- Flavours ---------------------------------------------------------------------------------------------------

    def _fill(self, r, axes, n, c, f, groups=1):
        """`c` and `f` are of one group."""
        if self.given == "plane":
            c = f = groups = 1
        if self.given != "batch":
            n = 1
        sizes, kernel, stride, pad, dilation = zip(*axes, strict=True)
        if r.random() < 0.15:
            word = r.choice(("valid", "same", "same_upper", "same_lower", "half", "full"))
            pads = [word_pads(word, *rest) for rest in zip(sizes, kernel, stride, dilation, strict=True)]
            rest = [s + sum(p) - d * (k - 1) for s, p, d, k in zip(sizes, pads, dilation, kernel, strict=True)]
            if min(rest) > 0 and math.prod((size - 1) // s + 1 for size, s in zip(rest, stride, strict=True)) <= 1024:
                self.word, pad = word, tuple(pads)
        self.case = Case("", n, c * groups, *sizes, f * groups, kernel, stride, tuple(pad), dilation, groups)

    def _small(self, r):
        groups = r.choice((1, 1, 1, 2, 3))
        n = 0 if r.random() < 0.04 else r.randint(1, 3)
        self._fill(r, [_axis(r, 8, 4), _axis(r, 8, 4)], n, r.randint(1, 4), r.randint(1, 4), groups)

    def _large(self, r):
        """Vectors and tiles that are filled, and rests of every length."""
        groups = r.choice((1, 1, 1, 1, 2, 3))
        axes = [_axis(r, r.choice((8, 20, 67)), r.choice((1, 3, 3, 5))) for _ in range(2)]
        wide = 67 if max(axes[0][0], axes[1][0]) < 20 else 12
        self._fill(r, axes, r.choice((1, 1, 2)), r.randint(1, r.choice((3, wide))), r.randint(1, r.choice((3, wide))), groups)
        if self.kind == "special":
            self.kind = "signed"  # longdouble is slow

    def _giant(self, r, wide=False):
        first = r.randrange(2)
        axes = [None, None]
        axes[first] = _giant_axis(r, wide)
        axes[1 - first] = _giant_axis(r, wide) if r.random() < 0.5 else _axis(r, 6, 3)
        # Products of many channels and filters take other ways than those of few.
        c, f = (r.choice((1, 2, 8, 21)), r.choice((1, 2, 33, 64))) if r.random() < 0.3 else (r.randint(1, 3), r.randint(1, 3))
        self._fill(r, axes, r.choice((0, 1, 1, 2)), c, f, r.choice((1, 1, 2)))
        case = self.case
        padded = [size + sum(pad) for size, pad in zip((case.h, case.w), case.pad, strict=True)]
        if max(padded) > 2**49 or max(1, case.n) * case.c * case.h * case.w > 2**47:
            self.word = ""
            self._giant(r, wide)

    def _wide(self, r):
        self._giant(r, True)

    def _normal(self, r):
        self.given = "batch"
        groups = r.choice((1, 1, 1, 2))
        axes = [_axis(r, r.choice((12, 40)), r.choice((1, 3, 3, 5))) for _ in range(2)]
        self._fill(r, axes, r.choice((1, 2, 4)), r.randint(1, 24), r.randint(1, r.choice((8, 64))), groups)
        self.kind = "normal"
        if self.multiply_adds > 6e6 or self.case.h * self.case.w == 0:
            self.word = ""
            self._normal(r)

    def _extreme(self, r):
        self._small(r)
        self.kind = "extreme " + r.choice(("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"))

    # ---- Sizes ------------------------------------------------------------------------------------------------------

    @property
    def multiply_adds(self):
        case = self.case
        steps = [
            (size + sum(pad) - d * (k - 1) - 1) // s + 1
            for size, k, s, pad, d in zip((case.h, case.w), case.kernel, case.stride, case.pad, case.dilation, strict=True)
        ]
        return case.n * math.prod(steps) * math.prod(case.kernel) * case.c * case.f // case.groups

    @property
    def phi_shape(self):
        return self.case.n * math.prod(self.output), self.case.c * math.prod(self.case.kernel)

    def without_axes(self, shape):
        if self.given == "batch":
            return tuple(shape)
        if self.given == "image":
            return tuple(shape[1:])
        return tuple(shape[1:-1] if self.layout == "NHWC" else shape[2:])

    def space_of(self, shape):
        """The axes of space of an x or y in the caller's shape."""
        if self.given == "plane":
            return (0, 1)
        first = len(shape) - 2 if self.layout == "NCHW" else len(shape) - 3
        return (first, first + 1)

    def full_image(self, array):
        if self.given == "batch":
            return array
        if self.given == "image":
            return array[None]
        return array[None, ..., None] if self.layout == "NHWC" else array[None, None]

    def full_weight(self, array):
        if self.given != "plane":
            return array
        return array[..., None, None] if self.layout == "NHWC" else array[None, None]

    # ---- Words ------------------------------------------------------------------------------------------------------

    def dtype(self, r):
        if self.kind.startswith("extreme"):
            return np.dtype(self.kind.split()[1]).str
        if self.for_core and self.kind != "complex" and r.random() < 0.75:
            return r.choice(("<f4", "<f8"))
        return r.choice(DTYPES[self.kind])

    def lay(self, r, values, dtype, plain=0.5):
        """`values` in memory, one way or another."""
        if r.random() < plain and not (set(values.constant) and max(values.shape) > 64):
            return Laid(values, dtype)
        axes = len(values.shape)
        order = tuple(r.sample(range(axes), axes)) if r.random() < 0.4 and not values.windows else ()
        steps = [r.choice((1, 1, 1, -1, 2, -3)) if r.random() < 0.5 else 1 for _ in range(axes)]
        for axis in values.constant:
            if values.shape[axis] > 64 or r.random() < 0.7:
                steps[axis] = 0
        giant = math.prod(size for size, step in zip(values.shape, steps, strict=True) if step) > 2**20
        made = Laid(
            values,
            dtype if self.for_core or r.random() < 0.8 else dtype.replace("<", ">"),
            order,
            () if all(step == 1 for step in steps) else tuple(steps),
            0 if self.for_core else r.choice((0, 0, 1, 2, 4, 8, r.randint(1, 15))),
            0 if self.for_core else r.choice((0,) * 9 + (1,)),
            r.random() < 0.15,
            bool(values.windows),
        )
        assert not giant, values
        if not self.for_core and r.random() < 0.04 and math.prod(values.shape) < 4096 and 0 not in values.shape:
            exact_list = dtype in ("<f8", "<i8", "?", "<c16")
            made = made._replace(given_as="list" if exact_list else "object", read_only=False)
        return made

    def arguments(self, r, groups=True):
        """stride, pad, dilation, groups and layout, each spelled in one of the ways in which it can be."""
        case, named = self.case, {}
        stride, dilation = _spelled(r, case.stride), _spelled(r, case.dilation)
        pad = self.word or _spelled_pads(r, case.pad)
        defaults = {"stride": (1, 1), "pad": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1, "layout": "NCHW"}
        given = {
            "stride": case.stride,
            "pad": case.pad,
            "dilation": case.dilation,
            "groups": case.groups,
            "layout": self.layout,
        }
        words = {"stride": stride, "pad": pad, "dilation": dilation, "groups": case.groups, "layout": self.layout}
        for name, word in words.items():
            if (name != "groups" or groups) and (
                given[name] != defaults[name] or self.word and name == "pad" or r.random() < 0.3
            ):
                named[name] = word
        return named


def _spelled(r, pair):
    if pair[0] == pair[1] and r.random() < 0.6:
        return pair[0] if r.random() < 0.8 else Raw(f"np.int64({pair[0]})")
    return r.choice((tuple(pair), tuple(pair), list(pair), Raw(f"np.array({list(pair)})")))


def _spelled_pads(r, pads):
    if pads[0][0] == pads[0][1] and pads[1][0] == pads[1][1] and r.random() < 0.7:
        return _spelled(r, (pads[0][0], pads[1][0]))
    return r.choice((tuple(map(tuple, pads)), [list(pair) for pair in pads], Raw(f"np.array({[list(pair) for pair in pads]})")))
