"""Legal calls of the functions on arrays: convolution, its gradients, plans, patches."""

import math

import numpy as np
import twin
from arrays import Laid, Values
from call import Call, equal, maker, spelled

import im2colx

THREADS = (1, 2, 3, 5, 8)
PARAMETERS = {"forward": "conv2d", "grad_input": "conv2d_grad_input", "grad_weight": "conv2d_grad_weight"}
FLAVOURS = ("small", "large", "giant", "wide", "extreme")


def values_of(values, name):
    """The Values of an array argument."""
    return values["call"][1][name].values


def dtypes_of(values, *names):
    named = values["call"][1]
    return [np.dtype(named[name].dtype) for name in names if named.get(name) is not None]


def out_for(r, shape, dtype):
    """A fit `out`: plain, with gaps, flipped, permuted or misaligned."""
    dtype = np.dtype(dtype).str
    values = Values(tuple(shape), "blank")
    if 0 in shape or r.random() < 0.5:
        return Laid(values, dtype, offset=r.choice((0, 0, 1, 4, 8)) if 0 not in shape else 0)
    axes = len(shape)
    return Laid(
        values,
        dtype,
        tuple(r.sample(range(axes), axes)) if r.random() < 0.5 else (),
        tuple(r.choice((1, 1, -1, 2, -2)) for _ in range(axes)) if r.random() < 0.6 else (),
        r.choice((0, 0, 4, 8, r.randint(1, 15))),
        r.choice((0, 0, 0, 3)),
    )


def two_dtypes(r, scene):
    first = scene.dtype(r)
    return first, first if r.random() < 0.8 else scene.dtype(r)


# ---- Convolution and its gradients ----------------------------------------------------------------------------------

_ARRAYS = {"forward": ("x", "w"), "grad_input": ("grad_y", "w"), "grad_weight": ("x", "grad_y")}
_RESULT = {"forward": "y", "grad_input": "x", "grad_weight": "w"}


def wanted_of(op, scene):
    """A function of a call's values: what the twin says, in the caller's axes."""

    def wanted(values):
        first, second = (values_of(values, name) for name in _ARRAYS[op])
        result = getattr(twin, op)(first, second, scene)
        if op == "forward" and values["call"][1].get("bias") is not None:
            bias = twin.exact(values_of(values, "bias"))
            with np.errstate(all="ignore"):
                result = result + (bias[:, None, None] if scene.layout == "NCHW" else bias)
        if op == "grad_weight" and scene.given == "plane":
            return result.reshape(scene.case.kernel)
        return result if op == "grad_weight" else result.reshape(scene.without_axes(result.shape))

    return wanted


def result_dtype(op):
    return lambda values: twin.summed(*dtypes_of(values, *_ARRAYS[op], "bias"))


def can_decline(method, dtype, scene, workspace):
    """What a method may say to a call: the direct loops take all, and so does "auto"."""
    if method in ("auto", "naive") or workspace is None and scene.flavour not in ("giant", "wide") and dtype.kind not in "ic":
        return ""
    return "cannot take this call"


def convolution(r, scene, op, plain=False):
    """A call of conv2d or a gradient; None if the result would be a giant."""
    if op == "grad_input" and scene.flavour == "wide":
        return None
    numbers = {"x": scene.x, "w": scene.w, "grad_y": scene.y}
    dtypes = two_dtypes(r, scene)
    named = {
        name: scene.lay(r, numbers[name], dtype, 1.0 if plain else 0.5) for name, dtype in zip(_ARRAYS[op], dtypes, strict=True)
    }
    if op == "grad_input":
        named["x_shape"] = scene.x.shape if r.random() < 0.8 else list(scene.x.shape)
    if op == "grad_weight":
        named["w_shape"] = scene.w.shape
    named |= scene.arguments(r)
    if op == "forward" and r.random() < 0.3:
        named["bias"] = scene.lay(r, Values((scene.case.f,), scene.kind, r.randrange(2**32)), dtypes[0])
    dtype = twin.summed(*(named[name].dtype for name in (*_ARRAYS[op], "bias") if name in named))
    if r.random() < 0.8:
        named["method"] = r.choice(im2colx.methods())
    if r.random() < 0.3:
        named["threads"] = r.choice(THREADS)
    if op == "forward":
        if r.random() < 0.2:
            named["precision"] = r.choice(("exact", "standard", "fast"))
        if r.random() < 0.15:
            named["workspace"] = r.choice((16, 100, 1000, 4096, 10**5, 2**20, 2**40))
    if r.random() < 0.35:
        shape = {"y": scene.y, "x": scene.x, "w": scene.w}[_RESULT[op]].shape
        named["out"] = out_for(r, shape, dtype)
    function = PARAMETERS[op]
    call = Call(function, f"{function}({{call}})", equal(wanted_of(op, scene), result_dtype(op), "out"))
    call.values["call"] = spelled(r, function, named)
    call.shape_of_out = {"y": scene.y, "x": scene.x, "w": scene.w}[_RESULT[op]].shape
    call.may_decline = can_decline(named.get("method", "auto"), dtype, scene, named.get("workspace"))
    call.may_overflow = scene.flavour == "extreme"
    return call


@maker(24, "conv2d", flavours=FLAVOURS)
def conv2d(r, scene):
    return convolution(r, scene, "forward")


@maker(14, "conv2d_grad_input", flavours=FLAVOURS)
def conv2d_grad_input(r, scene):
    return convolution(r, scene, "grad_input")


@maker(14, "conv2d_grad_weight", flavours=FLAVOURS)
def conv2d_grad_weight(r, scene):
    return convolution(r, scene, "grad_weight")


@maker(5, "conv2d", flavours=("small", "large", "giant"))
def the_short_way(r, scene):
    """Plain arrays, as the call cache wants them: the second such call of a scene is served from it."""
    call = convolution(r, scene, "forward", plain=True)
    return call.with_arguments(drop=("out", "workspace", "bias"))


# ---- Plans ----------------------------------------------------------------------------------------------------------


def _is_a_plan(result, values, made):
    if result.method not in im2colx.methods()[1:]:
        return f"has method {result.method!r}"
    if not (type(result.workspace_nbytes) is int and result.workspace_nbytes >= 0 and type(result.nbytes) is int):
        return f"has workspace_nbytes {result.workspace_nbytes!r} and nbytes {result.nbytes!r}"
    text = result.explain()
    if result.method not in text or str(result.y_shape) not in text or result.method not in repr(result):
        return f"explains itself as {text!r}"
    if result.dtype != np.dtype(values["call"][1].get("dtype", values["call"][1]["w"].dtype)).newbyteorder("="):
        return f"has dtype {result.dtype}"
    return None


def plan_arguments(r, scene, plain=False):
    dtype, w_dtype = two_dtypes(r, scene)
    named = {"x_shape": scene.x.shape, "w": scene.lay(r, scene.w, w_dtype, 1.0 if plain else 0.5)} | scene.arguments(r)
    if dtype != w_dtype or r.random() < 0.3:
        named["dtype"] = dtype
    if r.random() < 0.25:
        named["bias"] = scene.lay(r, Values((scene.case.f,), scene.kind, r.randrange(2**32)), w_dtype)
    if r.random() < 0.6:
        named["method"] = r.choice(im2colx.methods())
    if r.random() < 0.3:
        named["threads"] = r.choice(THREADS)
    if r.random() < 0.1:
        named["precision"] = r.choice(("exact", "standard", "fast"))
    return named, dtype, w_dtype


_PLAN = (
    "Plan",
    "Plan.method",
    "Plan.dtype",
    "Plan.x_shape",
    "Plan.y_shape",
    "Plan.workspace_nbytes",
    "Plan.nbytes",
    "Plan.explain",
)


@maker(5, "plan_conv2d", *_PLAN, flavours=("small", "large", "giant", "wide"))
def plan(r, scene):
    named, dtype, w_dtype = plan_arguments(r, scene)

    def verdict(result, values, made):
        wrong = _is_a_plan(result, values, made)
        if wrong is None and (result.x_shape, result.y_shape) != (scene.x.shape, scene.y.shape):
            wrong = f"has x_shape {result.x_shape} and y_shape {result.y_shape}, but must have {scene.x.shape}, {scene.y.shape}"
        return wrong

    call = Call("plan_conv2d", "plan_conv2d({call})", verdict, call=spelled(r, "plan_conv2d", named))
    call.may_decline = can_decline(named.get("method", "auto"), twin.summed(dtype, w_dtype), scene, None)
    call.is_timed = math.prod(scene.w.shape) < 2000
    return call


@maker(10, "Plan", "Plan.long_call", "Plan.prepare", flavours=FLAVOURS)
def plan_called(r, scene):
    named, dtype, w_dtype = plan_arguments(r, scene)
    dtypes = [dtype, w_dtype, *([named["bias"].dtype] if "bias" in named else [])]
    shape, of_result = scene.y.shape, twin.summed(*dtypes)
    x = scene.lay(r, scene.x, dtype)
    if np.dtype(x.dtype).newbyteorder("=") != np.dtype(dtype) or x.given_as == "list":
        x = x._replace(dtype=dtype, given_as="array")

    def verdict(result, values, made):
        if "out" in values and result is not made["out"][0]:
            return "is not out"
        return twin.differs(result, wanted(values), of_result)

    def wanted(values):
        return wanted_of("forward", scene)({"call": (0, {"x": values["x"], **values["call"][1]})})

    verdict.wanted, verdict.dtype = wanted, lambda values: of_result
    template = "plan_conv2d({call})({x})"
    call = Call("Plan", template, verdict, call=spelled(r, "plan_conv2d", named), x=x)
    if r.random() < 0.4:
        call.template = "plan_conv2d({call})({x}, {out})"
        call.values["out"] = out_for(r, shape, of_result)
    call.may_decline = can_decline(named.get("method", "auto"), of_result, scene, None)
    call.may_overflow = scene.flavour == "extreme"
    return call


# ---- Patches --------------------------------------------------------------------------------------------------------


def patch_arguments(r, scene, x=None):
    """The arguments that im2col, col2im and PatchMatrix share."""
    kernel = scene.case.kernel
    named = {} if x is None else {"x": x}
    named["kernel"] = kernel[0] if kernel[0] == kernel[1] and r.random() < 0.6 else r.choice((kernel, list(kernel)))
    return named | scene.arguments(r, groups=False)


def phi_of(scene):
    return lambda values: twin.phi(values_of(values, "x"), scene)


def dtype_of_x(values):
    return np.dtype(values["call"][1]["x"].dtype).newbyteorder("=")


@maker(8, "im2col", flavours=FLAVOURS)
def im2col(r, scene):
    named = patch_arguments(r, scene, scene.lay(r, scene.x, scene.dtype(r)))
    if r.random() < 0.35:
        named["out"] = out_for(r, scene.phi_shape, dtype_of_x({"call": (0, named)}))
    call = Call("im2col", "im2col({call})", equal(phi_of(scene), dtype_of_x, "out"), call=spelled(r, "im2col", named))
    call.shape_of_out = scene.phi_shape
    return call


@maker(6, "col2im", flavours=("small", "large", "giant", "extreme"))
def col2im(r, scene):
    patches = Values(scene.phi_shape, scene.kind, r.randrange(2**32))
    named = {"patches": scene.lay(r, patches, scene.dtype(r)), "x_shape": scene.x.shape} | patch_arguments(r, scene)

    def wanted(values):
        return twin.col2im(values_of(values, "patches"), scene).reshape(scene.x.shape)

    def dtype(values):
        return twin.summed(*dtypes_of(values, "patches"))

    call = Call("col2im", "col2im({call})", equal(wanted, dtype), call=spelled(r, "col2im", named))
    call.may_overflow = scene.flavour == "extreme"
    return call


def _shape_given(r, shape):
    return r.choice((shape, list(shape)))


@maker(4, "output_shape", flavours=FLAVOURS)
def output_shape(r, scene):
    named = {"x_shape": _shape_given(r, scene.x.shape), "w_shape": _shape_given(r, scene.w.shape)} | scene.arguments(r)

    def verdict(result, values, made):
        return None if result == scene.y.shape and type(result) is tuple else f"is {result!r}, but must be {scene.y.shape}"

    call = Call("output_shape", "output_shape({call})", verdict, call=spelled(r, "output_shape", named))
    call.is_timed = True
    return call


@maker(2, "conv2d", "conv2d_grad_input", "conv2d_grad_weight", flavours=("small", "giant", "wide"))
def planning(r, scene):
    """A first call, of little work: its time is that of planning.  A batch of no images plans as any other."""
    call = convolution(
        r, scene, r.choice(("forward", "grad_weight")) if scene.flavour == "wide" else r.choice(tuple(PARAMETERS))
    )
    if scene.case.n and scene.multiply_adds > 2000 or math.prod(scene.w.shape) > 2000:
        return None
    call = call.with_arguments(drop=("out", "threads"))
    call.is_timed = True
    return call


# ---- The rest of the package ----------------------------------------------------------------------------------------


@maker(0.5, "methods", "info", "get_num_threads", "set_num_threads", flavours=FLAVOURS)
def facts(r, scene):
    kind = r.choice(("methods", "get_num_threads", "set_num_threads", "set_num_threads", "info"))
    if kind == "set_num_threads":
        count = r.choice((1, 2, 3, 8, 256))
        verdict = lambda result, values, made: None if result == (None, count, None) else f"is {result!r}"  # noqa: E731
        template = "(set_num_threads({n}), get_num_threads(), set_num_threads({before}))"
        return Call(kind, template, verdict, n=count, before=im2colx.get_num_threads())
    fits = {
        "methods": lambda result: result[0] == "auto" and all(isinstance(name, str) for name in result),
        "get_num_threads": lambda result: 1 <= result <= 256,
        "info": lambda result: result["im2colx"] == im2colx.__version__ and result["threads"]["used"] >= 1,
    }[kind]
    if kind == "info" and r.random() < 0.6:  # it asks SciPy for its BLAS, some milliseconds
        return None
    return Call(kind, f"{kind}()", lambda result, values, made: None if fits(result) else f"is {result!r}")
