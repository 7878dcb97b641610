"""Legal calls of the rest: Φ and the layer's matrix as objects, FC and CONV, explanations."""

import json
import math

import numpy as np
import twin
from arrays import Laid, Raw, Values
from call import NAMES, Call, equal, maker, spelled
from legal import FLAVOURS, dtype_of_x, dtypes_of, patch_arguments, phi_of, values_of, wanted_of

import im2colx

# ---- PatchMatrix ----------------------------------------------------------------------------------------------------


def _patch_matrix(r, scene, tail, wanted, dtype, **values):
    named = patch_arguments(r, scene, scene.lay(r, scene.x, scene.dtype(r)))
    return Call(
        "PatchMatrix", "PatchMatrix({call})" + tail, equal(wanted, dtype), call=spelled(r, "PatchMatrix", named), **values
    )


@maker(5, "PatchMatrix", "PatchMatrix.toarray", "PatchMatrix.T", flavours=FLAVOURS)
def entries_of_phi(r, scene):
    phi = phi_of(scene)
    tail, wanted = r.choice(
        (
            (".toarray()", phi),
            (".T.toarray()", lambda values: phi(values).T),
            ("[:]", phi),
            (".T[:, :]", lambda values: phi(values).T),
            (".T.T[...]", phi),
        )
    )
    if r.random() < 0.1:
        call = _patch_matrix(r, scene, "", None, None)
        call.template = "np.asarray(PatchMatrix({call}))"
        call.verdict = equal(phi, dtype_of_x)
        return call
    return _patch_matrix(r, scene, tail, wanted, dtype_of_x)


def _selection(r, size):
    """A selection of rows or columns: an integer, slice, list or mask, as text."""
    kind = r.randrange(5)
    some = [r.randrange(-size, size) for _ in range(r.randint(0, 4))] if size else []
    if kind == 0 and size:
        return Raw(r.choice((f"{r.randrange(-size, size)}", f"np.int32({r.randrange(size)})")))
    if kind == 1:
        return Raw(f"np.array({some}, np.int64)")
    if kind == 2 and size < 200:
        return Raw(f"np.array({[int(r.random() < 0.5) for _ in range(size)]}, bool)")
    if kind == 3:
        return Raw(
            "..."
            if r.random() < 0.2
            else f"slice({r.choice((None, 1, -2))}, {r.choice((None, 5, -1, 2**62))}, {r.choice((1, 2, -1))})"
        )
    return Raw("slice(None)")


@maker(6, "PatchMatrix.row", "PatchMatrix.column", "PatchMatrix.index", flavours=FLAVOURS)
def parts_of_phi(r, scene):
    (rows, columns), phi = scene.phi_shape, phi_of(scene)
    kind = r.choice(("select", "select", "row", "column", "index", "facts"))
    if kind == "select":
        p, q = _selection(r, rows), _selection(r, columns)
        if p == q == "...":
            return None
        is_two = {"p": p, "q": q}

        def selected(values):
            keys = eval(f"({values['p']}, {values['q']})", NAMES)
            return phi(values)[keys]

        try:  # what NumPy does not take, such as two arrays of other lengths, is no legal selection
            chosen = np.empty((rows, columns), bool)[eval(f"({p}, {q})", NAMES)]
        except (IndexError, MemoryError, ValueError):
            return None
        call = _patch_matrix(r, scene, "[{p}, {q}]", selected, dtype_of_x, **is_two)
        if np.ndim(chosen) == 0:
            call.verdict = equal(lambda values: np.asarray(selected(values)), dtype_of_x)
        return call
    if kind == "facts":

        def facts(result, values, made):
            dtype = dtype_of_x(values)
            right = ((rows, columns), dtype, rows * columns * dtype.itemsize)
            return None if result == right else f"is {result}, but must be {right}"

        call = _patch_matrix(r, scene, "", None, None)
        call.template = "(lambda phi: (phi.shape, phi.dtype, phi.nbytes_saved))(PatchMatrix({call}))"
        call.verdict = facts
        return call
    if not rows:
        return None
    p, q = r.randrange(-rows, rows), r.randrange(-columns, columns)
    if kind == "row":
        return _patch_matrix(r, scene, ".row({p})", lambda values: phi(values)[p], dtype_of_x, p=p)
    if kind == "column":
        return _patch_matrix(r, scene, ".column({q})", lambda values: phi(values)[:, q], dtype_of_x, q=q)
    call = _patch_matrix(r, scene, ".index({p}, {q})", None, None, p=p, q=q)
    right = twin.entry(scene, p % rows, q % columns)
    call.verdict = lambda result, values, made: None if result == right else f"is {result}, but must be {right}"
    return call


COVERS = ("PatchMatrix.ndim", "PatchMatrix.shape", "PatchMatrix.dtype", "PatchMatrix.nbytes_saved")


@maker(6, "PatchMatrix.gram", "PatchMatrix.mean", *COVERS, flavours=("small", "large", "giant"))
def products_of_phi(r, scene):
    (rows, columns), phi = scene.phi_shape, phi_of(scene)
    kind = r.choice(("gram", "mean", "times", "times", "transposed", "left"))
    if kind == "gram":
        if columns > 2000:
            return None

        def wanted(values):
            return twin.gram(values_of(values, "x"), scene)

        return _patch_matrix(r, scene, ".gram()", wanted, lambda values: twin.summed(*dtypes_of(values, "x")))
    if kind == "mean":
        if not rows:
            return None

        def mean(values):
            with np.errstate(all="ignore"):
                total = phi(values).sum(0)
                return total.astype(np.complex128 if total.dtype.kind == "c" else np.float64) / rows

        def dtype(values):
            own = dtype_of_x(values)
            return own if own.kind in "fc" else np.dtype(np.float64)

        return _patch_matrix(r, scene, ".mean()", mean, dtype)
    count = r.choice((None, 0, 1, 2, 5))
    length = columns if kind == "times" else rows
    shape = (length,) if count is None else (count, length) if kind == "left" else (length, count)
    other = scene.lay(r, Values(shape, scene.kind, r.randrange(2**32)), scene.dtype(r))
    if other.given_as != "array":
        other = other._replace(given_as="array")

    def wanted(values):
        a, b = phi(values), twin.exact(values["other"].values)
        if kind == "transposed":
            return twin.product(a.T, b)
        return twin.product(b, a) if kind == "left" else twin.product(a, b)

    def dtype(values):
        return twin.summed(*dtypes_of(values, "x"), values["other"].dtype)

    tail = {"times": " @ {other}", "transposed": ".T @ {other}", "left": ""}[kind]
    call = _patch_matrix(r, scene, tail, wanted, dtype, other=other)
    if kind == "left":
        call.template = "{other} @ PatchMatrix({call})"
    return call


# ---- The matrix of a layer ------------------------------------------------------------------------------------------


def _matrix_dtype(values):
    dtype = twin.summed(*dtypes_of(values, "w"))
    return np.dtype(np.float32) if dtype == np.float16 else dtype


def _matrix_arguments(r, scene):
    """The arguments of conv_matrix, and whether the boundary is circular."""
    shape = scene.x.shape if scene.given != "batch" or r.random() < 0.4 else scene.x.shape[1:]
    named = {"w": scene.lay(r, scene.w, scene.dtype(r)), "x_shape": shape} | scene.arguments(r)
    circular = r.random() < 0.3 and scene.case.h * scene.case.w > 0
    if circular or r.random() < 0.1:
        named["boundary"] = "circular" if circular else "zero"
    return named, circular


def _is_small(scene):
    case = scene.case
    return case.f * math.prod(scene.output) * case.c * case.h * case.w < 60_000


_OPERATOR = ("ConvOperator", "ConvOperator.tocsr", "ConvOperator.toarray")


@maker(5, "conv_matrix", *_OPERATOR, flavours=("small", "large", "giant"))
def conv_matrix(r, scene):
    if not _is_small(scene):
        return None
    named, circular = _matrix_arguments(r, scene)
    named["format"] = r.choice(("csr", "dense", "operator"))
    tail = {"csr": ".toarray()", "dense": "", "operator": r.choice((".toarray()", ".tocsr().toarray()"))}[named["format"]]
    verdict = equal(lambda values: twin.matrix(values_of(values, "w"), scene, circular), _matrix_dtype)
    return Call("conv_matrix", f"conv_matrix({{call}}){tail}", verdict, call=spelled(r, "conv_matrix", named))


@maker(6, "ConvOperator", flavours=("small", "large", "giant"))
def operator(r, scene):
    """Its products, by all the names that a LinearOperator has for them."""
    if not _is_small(scene) or scene.kind == "special" or 0 in scene.x.shape[-3:]:
        return None
    named, circular = _matrix_arguments(r, scene)
    tail, adjoint = r.choice(
        ((" @ {v}", 0), (".matvec({v})", 0), (".matmat({m})", 0), (".H @ {v}", 1), (".rmatvec({v})", 1), (".rmatmat({m})", 1))
        + ((".T @ {v}", 2), (" @ {m}", 0), (".H @ {m}", 1))
    )
    sides = scene.case.f * math.prod(scene.output), scene.case.c * scene.case.h * scene.case.w
    length = sides[0] if adjoint else sides[1]
    shape = (length,) if "{v}" in tail else (length, r.randint(1, 3))
    name = "v" if "{v}" in tail else "m"
    other = Laid(
        Values(shape, scene.kind, r.randrange(2**32)), scene.dtype(r), steps=(r.choice((1, -1, 2)),) + (1,) * (len(shape) - 1)
    )

    def wanted(values):
        a = twin.matrix(values_of(values, "w"), scene, circular)
        a = a if not adjoint else a.T if adjoint == 2 else a.conj().T
        return twin.product(a, twin.exact(values[name].values))

    def dtype(values):
        return twin.summed(_matrix_dtype(values), values[name].dtype)

    call = Call("ConvOperator", "ConvOperator({call})" + tail, equal(wanted, dtype), call=spelled(r, "ConvOperator", named))
    call.values[name] = other
    return call


@maker(
    1,
    "spectral_norm",
    "singular_values",
    "ConvOperator.spectral_norm",
    "ConvOperator.singular_values",
    flavours=("small", "giant"),
)
def spectrum(r, scene):
    if not _is_small(scene) or scene.kind in ("special",) or 0 in scene.x.shape or scene.case.n != 1 and scene.given == "batch":
        return None
    named, circular = _matrix_arguments(r, scene)
    sides = scene.case.f * math.prod(scene.output), scene.case.c * scene.case.h * scene.case.w
    if min(sides) > 60:
        return None
    kind = r.choice(("spectral_norm", "singular_values"))
    if kind == "singular_values":
        named["k"] = r.randint(1, min(sides))
    template = f"{kind}({{call}})"
    if r.random() < 0.3:
        extra = f"k={named.pop('k')}" if kind == "singular_values" else ""
        kind, template = "ConvOperator", f"ConvOperator({{call}}).{kind}({extra})"

    def verdict(result, values, made):
        a = twin.matrix(values_of(values, "w"), scene, circular)
        right = np.linalg.svd(a.astype(np.complex128 if a.dtype.kind == "c" else np.float64), compute_uv=False)
        right = right[0] if isinstance(result, float) else right[: len(result)]
        return twin.near(result, right, 2e-4, twin.exact(values_of(values, "w")).astype(complex))  # tol is 1e-4, and two ways of rounding are allowed for

    return Call(kind, template, verdict, call=spelled(r, kind, named))


# ---- FC and CONV ----------------------------------------------------------------------------------------------------


@maker(3, "conv_to_fc", flavours=("small", "giant"))
def conv_to_fc(r, scene):
    if not _is_small(scene) or 0 in scene.x.shape or scene.kind == "special":
        return None
    dtype = scene.dtype(r)
    if dtype == "<f2":  # the product on the way is NumPy's, which rounds float16 as it likes
        return None
    named = {"w": scene.lay(r, scene.w, dtype), "x_shape": scene.x.shape} | scene.arguments(r)
    named["form"] = r.choice(("patches", "image"))
    if r.random() < 0.4:
        named["format"] = r.choice(("csr", "dense", "operator"))
    x = scene.lay(r, scene.x, dtype)

    def verdict(result, values, made):
        y = wanted_of("forward", scene)({"call": (0, {**values["call"][1], "x": values["x"]})})
        if result.shape != y.shape or not (np.asarray(result) == y).all():
            return f"is {result}, but must be {y}"
        return None

    if np.dtype(dtype).kind in "iub" and np.dtype(dtype).itemsize < 4 and named["form"] == "image":
        return None  # a sparse matrix of int32 times x of int8 is SciPy's
    return Call("conv_to_fc", "conv_to_fc({call})({x})", verdict, call=spelled(r, "conv_to_fc", named), x=x)


def _taps_inside(scene):
    """For each tap whether any output meets it inside x."""
    *_, inside = im2colx._reference.index_map(
        (1, *scene.case.x_shape(scene.layout)[1:]), scene.case.kernel, *scene.case.geometry[:3], scene.layout
    )
    per_column = inside.any(0)
    shape = (scene.case.c, *scene.case.kernel) if scene.layout == "NCHW" else (*scene.case.kernel, scene.case.c)
    per_column = per_column.reshape(shape)
    return per_column[0] if scene.layout == "NCHW" else per_column[..., 0]


@maker(2, "fc_to_conv", "NotAConvolutionError", flavours=("small", "giant"))
def fc_to_conv(r, scene):
    if not _is_small(scene) or scene.kind == "special" or scene.case.n != 1 and scene.given == "batch":
        return None
    dtype, form = scene.dtype(r), r.choice(("patches", "image"))
    weights = scene.lay(r, scene.w, dtype)
    named = {"x_shape": scene.x.shape, "w_shape": scene.w.shape} | scene.arguments(r) | {"form": form}
    common = {name: value for name, value in named.items() if name != "w_shape"}
    template = "fc_to_conv(conv_to_fc({w}, **{common}).weights, {call}).w"
    right = twin.exact(scene.w)
    if form == "image":
        inside = _taps_inside(scene)
        if scene.given != "plane":
            inside = inside[None, None] if scene.layout == "NCHW" else inside[..., None, None]
        right = np.where(inside, right, 0)

    def verdict(result, values, made):
        if result.shape != right.shape or not (result == right).all():
            return f"is {result}, but must be {right}"
        return None

    return Call("fc_to_conv", template, verdict, w=weights, common=common, call=(0, named))


# ---- Explanations ---------------------------------------------------------------------------------------------------


_EXPLANATION = (
    "Explanation",
    "Explanation.text",
    "Explanation.html",
    "Explanation.json",
    "Explanation.index",
    "Explanation.readers",
)


@maker(0.7, "explain", *_EXPLANATION, flavours=("small", "giant"))
def explain(r, scene):
    if scene.kind in ("complex", "special") or 0 in scene.x.shape:
        return None
    named = {"x": scene.lay(r, scene.x, scene.dtype(r)), "w": scene.lay(r, scene.w, scene.dtype(r))} | scene.arguments(r)
    if any(named[name].given_as != "array" for name in ("x", "w")):
        return None
    n, f, a, b = (r.randrange(size) for size in (scene.case.n, scene.case.f, *scene.output))
    named["at"] = (n, f, a, b)
    tail = r.choice((".facts['y']", ".facts['y']", ".index({p}, {q})", ".text()", ".json()", ".html()"))
    rows, columns = scene.phi_shape
    p, q = r.randrange(rows), r.randrange(columns // scene.case.groups)
    if tail == ".index({p}, {q})" and scene.case.groups > 1:
        return None

    def verdict(result, values, made):
        if tail == ".facts['y']":
            y = wanted_of("forward", scene)(values)
            y = scene.full_image(y)
            right = y[n, f, a, b] if scene.layout == "NCHW" else y[n, a, b, f]
        elif tail == ".index({p}, {q})":
            right = twin.entry(scene, p, q)
        else:
            if tail == ".json()":
                json.loads(result)
            return None if isinstance(result, str) and len(result) > 200 else f"is {result!r}"
        return None if result == right else f"is {result!r}, but must be {right!r}"

    call = Call("explain", "explain({call})" + tail, verdict, call=spelled(r, "explain", named))
    if scene.flavour == "giant":
        call.may_decline = "too large to explain"
    if "{p}" in tail:
        call.values |= {"p": p, "q": q}
    return call
