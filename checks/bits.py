"""The same bits: calls that must agree in every bit with the same call on one thread."""

import numpy as np
from arrays import Laid
from call import Call
from legal import PARAMETERS, THREADS, out_for

import im2colx

_ARRAYS = {"forward": ("x", "w"), "grad_input": ("grad_y", "w"), "grad_weight": ("x", "grad_y")}


def same_bits(r, scene, count):
    """Calls of one problem: other threads, misaligned copies, `out`, another order of the images in the batch."""
    op, method = r.choice(tuple(_ARRAYS)), r.choice(im2colx.methods())
    dtype = r.choice(("<f4", "<f4", "<f8", "<c8"))
    if dtype == "<c8" and method == "implicit":
        dtype = "<f4"
    if method == "naive" and scene.multiply_adds > 1e6:
        method = "auto"
    numbers = {"x": scene.x, "w": scene.w, "grad_y": scene.y}
    named = {name: Laid(numbers[name], dtype) for name in _ARRAYS[op]}
    if op == "grad_input":
        named["x_shape"] = scene.x.shape
    if op == "grad_weight":
        named["w_shape"] = scene.w.shape
    named |= scene.arguments(r) | {"method": method}
    first, second = _ARRAYS[op]
    function = PARAMETERS[op]
    base = []

    def bits():
        if not base:
            arguments = dict(named, threads=1)
            call = Call(function, f"{function}({{call}})", None, call=(0, arguments))
            base.append(call.make()[0]())
        return base[0]

    for _ in range(count):
        changed, roll = dict(named, threads=r.choice(THREADS)), 0
        kind = r.choice(("threads", "threads", "misaligned", "out", "roll", "plan"))
        if kind == "misaligned":
            changed |= {
                name: named[name]._replace(offset=r.choice((1, 4, 8, 12, 32, r.randint(1, 63)))) for name in (first, second)
            }
        elif kind == "out":
            shape = {"forward": scene.y, "grad_input": scene.x, "grad_weight": scene.w}[op].shape
            changed["out"] = out_for(r, shape, dtype)
        elif kind == "roll" and op != "grad_weight" and scene.case.n > 1:
            roll = r.randrange(1, scene.case.n)
            values = named[first].values._replace(roll=roll)
            changed[first] = named[first]._replace(values=values)
        call = Call(function, f"{function}({{call}})", _verdict(bits, roll), call=(0, changed))
        if kind == "plan" and op == "forward":
            x = changed.pop("x")
            call = Call(
                "Plan", "plan_conv2d({call})({x})", _verdict(bits, 0), call=(0, {"x_shape": scene.x.shape, **changed}), x=x
            )
        call.name += " bits"
        yield call


def _verdict(bits, roll):
    def verdict(result, values, made):
        right = np.roll(bits(), roll, 0)
        if result.tobytes() == right.tobytes():
            return None
        at = tuple(np.argwhere(result != right)[0].tolist())
        count, rolled = int((result != right).sum()), f", images rolled by {roll}" if roll else ""
        where = f"at {at} it is {result[at]!r}, there {right[at]!r}"
        return f"differs in {count} of {right.size} elements from the call on one thread{rolled}: {where}"

    return verdict
