"""Legal calls of the layers of im2colx.nn: forward and backward, where the answer is a few lines of NumPy."""

import functools

import numpy as np
import twin
from arrays import Laid, Raw, Values
from call import NAMES, Call, maker

from im2colx import nn


def trained(layer, x, grad_y, weight=None):
    """A layer's answers: y, dL/dx, and the gradients of its weights."""
    model = nn.Sequential([layer], input_shape=x.shape[1:], dtype=x.dtype)
    if weight is not None:
        layer.weight[...] = weight
    y = np.array(layer.forward(x, training=True))
    grad_x = np.array(layer.backward(grad_y))
    return (y, grad_x, *(np.array(gradient) for _, gradient in model.layers[0].gradients()))


NAMES["trained"] = trained


@maker(1.5, flavours=("small", "large"))
def layer(r, scene):
    if scene.given != "batch" or scene.kind not in ("signed", "natural", "bits") or 0 in scene.x.shape or scene.windows:
        return None
    if scene.constant:
        return None
    case, dtype = scene.case, r.choice(("<f4", "<f8"))
    x = scene.lay(r, scene.x, dtype)._replace(dtype=dtype, given_as="array")
    kind = r.choice(("Conv2D", "Conv2D", "Dense", "ReLU", "MaxPool2D", "Flatten"))
    values = {"x": x}
    numbers = twin.exact(scene.x)
    if kind == "Conv2D":
        named = {name: value for name, value in scene.arguments(r).items() if not isinstance(value, Raw)}
        named = {"stride": case.stride, "pad": case.pad, "dilation": case.dilation, "groups": case.groups} | named
        named |= {"filters": case.f, "kernel": case.kernel, "layout": scene.layout, "bias": False}
        for name in ("stride", "dilation"):
            named[name] = tuple(named[name]) if isinstance(named[name], list) else named[name]
        values |= {"w": Laid(scene.w, dtype), "grad_y": scene.lay(r, scene.y, dtype)._replace(dtype=dtype, given_as="array")}
        template = "trained(nn.Conv2D({call}), {x}, {grad_y}, {w})"
        right = functools.partial(
            lambda: (
                twin.forward(scene.x, scene.w, scene),
                twin.grad_input(scene.y, scene.w, scene),
                twin.grad_weight(scene.x, scene.y, scene),
            )
        )
    else:
        named = {"Dense": {"units": case.f, "bias": False}, "MaxPool2D": {"size": (1, 1), "layout": scene.layout}}.get(kind, {})
        if kind == "MaxPool2D":
            named["size"] = (r.randint(1, case.h), r.randint(1, case.w))
            named["stride"] = (r.randint(1, 3), r.randint(1, 3))
        y = _pooled(numbers, scene.layout, **{k: named[k] for k in ("size", "stride")})[0] if kind == "MaxPool2D" else None
        shape = {"Dense": (*scene.x.shape[:-1], case.f), "ReLU": scene.x.shape}.get(kind)
        shape = y.shape if kind == "MaxPool2D" else (case.n, case.c * case.h * case.w) if kind == "Flatten" else shape
        grad = Values(shape, "signed", r.randrange(2**32))
        values["grad_y"] = Laid(grad, dtype)
        template = f"trained(nn.{kind}({{call}}), {{x}}, {{grad_y}})"
        g = twin.exact(grad)
        if kind == "Dense":
            weight = Values((scene.x.shape[-1], case.f), "signed", r.randrange(2**32))
            values["w"] = Laid(weight, dtype)
            template = template[:-1] + ", {w})"
            w, rows = twin.exact(weight), numbers.reshape(-1, numbers.shape[-1])
            right = lambda: (numbers @ w, g @ w.T, rows.T @ g.reshape(-1, case.f))  # noqa: E731
        elif kind == "ReLU":
            right = lambda: (np.maximum(numbers, 0), g * (numbers > 0))  # noqa: E731
        elif kind == "Flatten":
            right = lambda: (numbers.reshape(shape), g.reshape(numbers.shape))  # noqa: E731
        else:
            right = lambda: _pooled(numbers, scene.layout, grad=g, **{k: named[k] for k in ("size", "stride")})  # noqa: E731

    def verdict(result, values, made):
        for what, got, wanted in zip(("y", "dL/dx", "dL/dw"), result, right(), strict=False):
            wrong = twin.differs(got, wanted, np.dtype(dtype))
            if wrong:
                return f"{what} {wrong}"
        return None

    return Call(f"nn.{kind}", template, verdict, call=(0, named), **values)


def _pooled(x, layout, size, stride, grad=None):
    """MaxPool2D and its gradient, window by window."""
    images = x if layout == "NCHW" else np.moveaxis(x, -1, 1)
    windows = np.lib.stride_tricks.sliding_window_view(images, size, (2, 3))[:, :, :: stride[0], :: stride[1]]
    flat = windows.reshape(*windows.shape[:4], -1)
    y, best = flat.max(-1), flat.argmax(-1)  # of equal ones the first
    back = (lambda a: a) if layout == "NCHW" else (lambda a: np.moveaxis(a, 1, -1))
    if grad is None:
        return (back(y),)
    n, c, a, b = np.indices(best.shape)
    grad_x = np.zeros(images.shape, np.int64)
    at = (n, c, a * stride[0] + best // size[1], b * stride[1] + best % size[1])
    np.add.at(grad_x, at, grad if layout == "NCHW" else np.moveaxis(grad, -1, 1))
    return back(y), back(grad_x)
