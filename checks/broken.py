"""Illegal calls: a legal one with one thing broken, the error that must come, and what its message must say."""

import math
import re

import numpy as np
from arrays import Laid, Over, Raw, Values
from broken_objects import of_objects
from call import legal
from refusals import TV, VM, Fault, T, V, integer, resized


def _per_axis(r, name, least=1):
    kind = r.randrange(4)
    if kind == 0:
        value = r.choice(([], (), Raw("np.array([])"), (1, 2, 3), Raw("np.ones(64)"), [1], ((1, 1), (1, 1), (1, 1))))
        return Fault(value, TV, (name,))
    if kind == 1:
        fault = integer(r, f"{name}[{r.randrange(2)}]", least)
        at = int(fault.mentions[0][-2])
        return fault._replace(value=(1, fault.value) if at else [fault.value, 1])
    return integer(r, name, least)


def _pad(r):
    kind = r.randrange(4)
    if kind == 0:
        word = r.choice(("SAME", "VALID", "circular", "constant", "", "same ", "Half"))
        return Fault(word, V, ("pad",), (word,))
    if kind == 1:
        return Fault((1, 1, 1, 1), V, ("pad",), ("((1, 1), (1, 1))",))
    if kind == 2:
        value = r.choice(
            (
                ((0, -1), (0, 0)),
                ((1, 1, 1), (1, 1, 1)),
                (1, 1, 1),
                ((1, 2),),
                [],
                ((1.5, 1), (1, 1)),
                (("1", 1), (1, 1)),
                ((1, 2), None),
            )
        )
        return Fault(value, TV, ("pad",))
    return _per_axis(r, "pad", 0)


def _word(name, *more):
    def fault(r):
        value = r.choice(
            (
                None,
                1,
                Raw("object()"),
                b"NCHW",
                ("NCHW",),
                "",
                "AUTO",
                "nonsense",
                Raw("BadIndex()"),
                Raw("np.array(['a', 'b'])"),
                *more,
            )
        )
        return Fault(value, V if isinstance(value, str) and not isinstance(value, Raw) else T, (name,))

    return fault


_DTYPES = ("object", "'U3'", "'S2'", "'M8[s]'", "'m8[s]'", "[('a', 'f4')]", "'V4'", "'longdouble'", "'clongdouble'")


def _array(r, name, shape):
    """Something that is no array to convolve."""
    kind = r.randrange(4)
    if kind == 0:
        if max((1, *shape)) > 2**20:
            return None
        return Fault(Raw(f"np.broadcast_to(np.zeros((), {r.choice(_DTYPES)}), {tuple(shape)})"), T, (name,), ("dtype",))
    if kind == 1:
        axes = r.choice((0, 1, 5, 6, 32))
        return Fault(Raw(f"np.ones((1,) * {axes}, 'f4')"), V, (name,), (str(axes), "(1,", "()"))
    if kind == 2:
        value = r.choice((None, Raw("BadArray()"), "abc", Raw("object()"), [[None]], [["a"]], {1: 2}))
        return Fault(value, T, (name,))
    value, errors = r.choice(
        (
            ("[[1, 2], [3]]", V),
            ("np.ma.masked_array(np.ones((2, 2)))", T),
            ("[[2**70]]", T),
            ("np.asmatrix(np.ones((2, 2)))", T),
        )
    )
    return Fault(Raw(value), errors, (name,))


def _x_or_w(r, name, laid, scene, has_no_w):
    """An x or w of another size; without a w, x may have any number of channels."""
    if r.random() < 0.4 or laid.given_as != "array" or scene.given == "plane":
        return _array(r, name, laid.values.shape)
    shape, axes = laid.values.shape, len(laid.values.shape)
    last = scene.layout == "NHWC"
    if name == "x":
        axis = axes - 1 if last else axes - 3
        size = 0 if has_no_w else r.choice((0, shape[axis] + 1))
    else:
        axis = r.randrange(4)
        kernel_axes = (0, 1) if last else (2, 3)
        filters = 3 if last else 0
        if axis in kernel_axes:
            along = kernel_axes.index(axis)
            span = (scene.case.h, scene.case.w)[along] + sum(scene.case.pad[along]) + 1
            size = 0 if scene.word or span > 1000 else r.choice((0, span))
        elif axis == filters:
            size = 0
        else:
            size = r.choice((0, shape[axis] + 1))
    other = resized(laid, axis, size)
    if other is None:
        return None
    return Fault(other, V, (name, "kernel"), (str(size), str(size * scene.case.groups)))


def _shape(r, name, shape):
    kind = r.randrange(4)
    axis = r.randrange(len(shape))
    put = lambda value: (*shape[:axis], value, *shape[axis + 1 :])  # noqa: E731
    if kind == 0:
        value = r.choice((-1, -8, -(2**63), -(2**70)))
        return Fault(put(value), V, (name,), (str(value), str(value)[:12]))
    if kind == 1:
        return Fault(put(r.choice((1.5, "4", None, True, Raw("BadIndex()")))), T, (name,))
    if kind == 2:
        value = r.choice((7, "1488", None, Raw("np.array(4)"), Raw("iter((1, 2))"), 1.5, Raw("object()")))
        return Fault(value, T, (name,))
    value = r.choice(((), (5,), (1,) * 5, (1, 2, 3, 4, 5, 6), Raw("range(2**26)"), Raw("np.ones(3000, int)")))
    return Fault(value, V, (name,), ("axes", "(", "range"))


def _grown_shape(r, name, shape):
    """Sizes whose product no memory holds, or which others contradict."""
    if r.random() < 0.5 and len(shape) == 4:
        return Fault((2**31, 2**31, 2**31, 2**31), VM, (name, "grad_y", "patches", "x", "w", "result", "memory"))
    return _shape(r, name, shape)


def _bias(r, filters, dtype):
    kind = r.randrange(3)
    if kind == 0:
        shape = r.choice(((filters + 1,), (filters, 1), (1, filters), (filters, 2), (0,), (1,) * 5))
        return Fault(Raw(f"np.ones({shape}, {dtype!r})"), V, ("bias",), (str(shape), f"({filters},)"))
    fault = _array(r, "bias", (filters,))
    if kind == 1 and "np.ones" not in str(fault.value):  # of which a number or one of an axis may be right
        return fault
    return Fault(Raw(f"np.array([None] * {filters})"), T, ("bias",))


def _out(r, shape, dtype, inputs):
    """An `out` that is no array, or another, or that lies over an input, or over itself."""
    dtype = np.dtype(dtype).str
    kind = r.choice(("shape", "dtype", "thing", "read", "zero", "itself", "alias", "alias", "order"))
    axes = len(shape)
    if kind == "shape":
        axis = r.randrange(axes)
        other = r.choice(((*shape[:axis], shape[axis] + 1, *shape[axis + 1 :]), shape[1:], (*shape, 1), (0,), ()))
        return Fault(Raw(f"np.empty({other}, {dtype!r})"), V, ("out",), (str(other),)) if other != shape else None
    if kind == "dtype":
        other = r.choice([d for d in ("<f4", "<f8", "<c8", "<i4", "<i8", "<i1") if np.dtype(d) != np.dtype(dtype)])
        return Fault(Raw(f"np.empty({tuple(shape)}, {other!r})"), TV, ("out",), (str(np.dtype(other)),))
    if kind == "order":
        if np.dtype(dtype).itemsize == 1:
            return None
        return Fault(Raw(f"np.empty({tuple(shape)}, {dtype.replace('<', '>')!r})"), V, ("out",), ("dtype",))
    if kind == "thing":
        value = r.choice(
            ([0], Raw("object()"), "out", 1, Raw(f"np.ma.masked_array(np.empty({tuple(shape)}, {dtype!r}))"), Raw("BadArray()"))
        )
        return Fault(value, T, ("out",))
    if 0 in shape:
        return None
    if kind == "read":
        return Fault(Laid(Values(tuple(shape), "blank"), dtype, read_only=True), V, ("out",), ("read-only",))
    longer = [axis for axis in range(axes) if shape[axis] > 1]
    if kind == "zero" and longer:
        steps = [1] * axes
        steps[r.choice(longer)] = 0
        return Fault(Laid(Values(tuple(shape), "blank"), dtype, steps=tuple(steps)), V, ("out",), ("overlaps",))
    if kind == "itself" and len(longer) >= 2:
        i, j = r.sample(longer, 2)
        return Fault(
            Laid(Values(tuple(shape), "blank", windows=(min(i, j), max(i, j))), dtype, overlapping=True),
            V,
            ("out",),
            ("overlaps",),
        )
    if kind == "alias":
        size = math.prod(shape) * np.dtype(dtype).itemsize
        fit = [
            name
            for name, laid in inputs.items()
            if laid.given_as == "array" and not laid.read_only and 0 not in laid.values.shape
        ]
        fit = [
            name
            for name in fit
            if _dense(inputs[name]) and math.prod(inputs[name].values.shape) * np.dtype(inputs[name].dtype).itemsize >= size
        ]
        if fit:
            return Fault(Over(r.choice(fit), tuple(shape), dtype), V, ("out",), ("overlaps",))
    return None


def _dense(laid):
    return not (laid.steps or laid.odd or laid.overlapping)


_OTHERS_WORDS = (
    "padding",
    "strides",
    "dilations",
    "data_format",
    "mode",
    "boundary_mode",
    "kernel_size",
    "dilatation",
    "axis",
    "nonsense",
)


def _faults(r, name, call, scene):
    """A fault of one argument, or None."""
    named = call.values["call"][1]
    if name in ("stride", "dilation"):
        return _per_axis(r, name)
    if name == "pad":
        return _pad(r)
    if name == "kernel":
        return _per_axis(r, name)
    if name == "groups":
        fault = integer(r, name, 1)
        return fault
    if name in ("layout", "method", "precision", "format", "boundary", "form"):
        return _word(name, *(("nchw", "CHWN", "NWC", "NCDHW") if name == "layout" else ()))(r)
    if name == "threads":
        return (
            Fault(257, V, (name,), ("257",))
            if r.random() < 0.1
            else integer(r, name, 1)
            if r.random() < 0.95
            else Fault((1, 1), T, (name,))
        )
    if name == "workspace":
        return Fault(0, V, (name,), ("0",)) if r.random() < 0.2 else _not_none(integer(r, name, 1))
    if name == "k":
        return Fault(10**6, V, (name,), (str(10**6),)) if r.random() < 0.3 else integer(r, name, 1)
    if name == "tol":
        value = r.choice((-1, 1, 2.0, Raw("nan"), Raw("inf"), "a", True, 1j, (1,)))
        return Fault(value, TV, (name,))
    if name == "bias" and call.name not in ("fc_to_conv",):
        return _bias(r, scene.case.f, "f4")
    if name == "dtype" and call.name in ("plan_conv2d", "Plan"):
        return Fault(r.choice(("float33", Raw("object"), ",", "U3", Raw("BadIndex()"), "longdouble", 3.5)), T, ("dtype", "x"))
    if name == "at":
        value = r.choice(
            ((0,), 7, (0, 0, 0, -1), (0, 0, 0, 2**62), (0, 0, 1.5, 0), "0000", (10**6, 0, 0, 0), Raw("range(2**26)"))
        )
        return Fault(value, TV, ("at",))
    if name in ("x", "w", "grad_y", "patches") and isinstance(named.get(name), Laid):
        laid = named[name]
        if name in ("x", "w"):
            if call.name in ("explain",) and r.random() < 0.9:
                return None
            return _x_or_w(r, name, laid, scene, call.name in ("PatchMatrix", "im2col"))
        axis = r.randrange(len(laid.values.shape))
        shape = laid.values.shape
        if r.random() < 0.5 and 0 not in shape:
            other = resized(laid, axis, shape[axis] + r.choice((-1, 1)))
            return other and Fault(other, V, (name,), (str(other.values.shape),))
        return _array(r, name, shape)
    if name in ("x_shape", "w_shape"):
        return (_grown_shape if name == "x_shape" else _shape)(r, name, tuple(named[name]))
    if name == "out" and call.name != "Plan":
        result = call.verdict.dtype(call.values)
        shape = call.shape_of_out
        inputs = {key: value for key, value in named.items() if isinstance(value, Laid) and key != "out"}
        return _out(r, shape, result, inputs)
    return None


def _not_none(fault):
    """None is no fault where it is the default."""
    return None if fault.value is None else fault


OPTIONAL = ("bias", "out", "threads", "workspace", "dtype", "at", "tol")


def broken(r, scene, parameters):
    """A random illegal call.  `parameters(function)` gives the names that a function takes."""
    while True:
        call = legal(r, scene)
        if r.random() < 0.06:
            made = of_objects(r, scene, call)
            if made is not None:
                return made
        if "call" not in call.values or call.name.startswith("nn.") or call.may_decline:
            continue
        found = re.search(r"(\w+)\(\{call\}", call.template)
        function = found.group(1) if found else call.name
        names = parameters(function)
        if names is None:
            continue
        if r.random() < 0.03:
            word = r.choice(_OTHERS_WORDS)
            if word not in names:
                return _faulty(call, word, Fault(1, TV, (word,)))
        name = r.choice(names)
        fault = _faults(r, name, call, scene)
        if fault is None or fault.value is None and name in OPTIONAL:
            continue
        return _faulty(call, name, fault)


def _faulty(call, name, fault):
    made = call.with_arguments(**{name: fault.value})
    count, named = made.values["call"]
    if name not in call.values["call"][1]:
        made.values["call"] = (count, named)
    made.errors, made.mentions, made.shows, made.is_timed = fault.errors, fault.mentions, fault.shows, False
    made.broken = name
    return made
