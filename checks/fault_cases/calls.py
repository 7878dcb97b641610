"""Every public function and method as a call of a few milliseconds, by name: what a fault is put into."""

import numpy as np

import im2colx
from im2colx import nn
from im2colx.nn import _kernels

SHAPES = {  # x, w, the other arguments
    "plain": ((2, 16, 20, 19), (24, 16, 3, 3), {"pad": 1}),
    "strided": ((2, 16, 20, 19), (24, 16, 3, 3), {"stride": 2, "pad": ((1, 0), (2, 1))}),
    "dilated": ((1, 8, 30, 31), (12, 8, 3, 2), {"dilation": (3, 2)}),
    "groups": ((3, 16, 15, 14), (24, 4, 3, 3), {"groups": 4, "pad": "same"}),
    "points": ((2, 64, 20, 20), (40, 64, 1, 1), {}),
    "depthwise": ((2, 12, 17, 16), (12, 1, 3, 3), {"groups": 12, "pad": 1}),
}
TYPES = ("f4", "f8", "c8", "i1", "i8")


def _array(rng, shape, dtype):
    return np.asarray(rng.integers(-3, 4, shape)).astype(dtype)


def convolutions(dtypes=TYPES, threads=(1, 2)):
    """Forward, both gradients and a plan, for every method, shape and dtype, in both layouts."""
    rng = np.random.default_rng(0)
    for shape, (x_shape, w_shape, more) in SHAPES.items():
        for dtype in dtypes:
            x, w = _array(rng, x_shape, dtype), _array(rng, w_shape, dtype)
            y = im2colx.conv2d(x, w, **more)
            for method in im2colx.methods():
                for count in threads:
                    words = {**more, "method": method, "threads": count}
                    name = f"{shape} {dtype} {method} {count} threads"
                    yield f"conv2d {name}", lambda a=x, b=w, m=words: im2colx.conv2d(a, b, **m)
                    yield f"grad_input {name}", lambda a=y, b=w, s=x_shape, m=words: im2colx.conv2d_grad_input(a, b, s, **m)
                    yield f"grad_weight {name}", lambda a=x, b=y, s=w_shape, m=words: im2colx.conv2d_grad_weight(a, b, s, **m)
                    yield f"plan {name}", lambda a=x, b=w, m=words: im2colx.plan_conv2d(a.shape, b, dtype=a.dtype, **m)(a)
            last, filters = np.ascontiguousarray(np.moveaxis(x, 1, -1)), np.ascontiguousarray(w.transpose(2, 3, 1, 0))
            words = {**more, "layout": "NHWC"}
            yield f"conv2d NHWC {shape} {dtype}", lambda a=last, b=filters, m=words: im2colx.conv2d(a, b, **m)
            yield f"conv2d reversed {shape} {dtype}", lambda a=x, b=w, m=more: im2colx.conv2d(a[:, :, ::-1], b[..., ::-1], **m)


def matrices():
    """Patches, Φ, explicit matrices, their spectra, explanations, recovery."""
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((2, 5, 14, 13)).astype("f4"), rng.standard_normal((6, 5, 3, 3)).astype("f4")
    image, shape = x[0], x.shape[1:]
    for layout in ("NCHW", "NHWC"):
        a = x if layout == "NCHW" else np.ascontiguousarray(np.moveaxis(x, 1, -1))
        phi = im2colx.PatchMatrix(a, 3, pad=1, layout=layout)
        patches, wide = phi.toarray(), rng.standard_normal((45, 7)).astype("f4")
        yield f"im2col {layout}", lambda a=a, m=layout: im2colx.im2col(a, 3, pad=1, layout=m)
        yield f"col2im {layout}", lambda a=a, p=patches, m=layout: im2colx.col2im(p, a.shape, 3, pad=1, layout=m)
        for name, call in {
            "[...]": lambda phi: phi[::3, 5:],
            ".row": lambda phi: phi.row(3),
            ".column": lambda phi: phi.column(-1),
            "@": lambda phi: phi @ wide,
            ".T @": lambda phi: phi.T @ phi.column(0),
            ".gram": lambda phi: phi.gram(),
            ".mean": lambda phi: phi.mean(),
            ".toarray": lambda phi: phi.toarray(),
        }.items():
            yield f"PatchMatrix{name} {layout}", lambda call=call, phi=phi: call(phi)
    for boundary in ("zero", "circular"):
        A = im2colx.ConvOperator(w, shape, pad=1, boundary=boundary)
        yield f"csr {boundary}", lambda A=A: _parts(A.tocsr())
        yield f"dense {boundary}", lambda A=A: A.toarray()
        yield f"operator {boundary}", lambda A=A: A.H @ (A @ image.ravel())
        yield f"spectral_norm {boundary}", lambda b=boundary: im2colx.spectral_norm(w[:, :2], (2, 8, 8), pad=1, boundary=b)
        yield f"singular_values {boundary}", lambda b=boundary: im2colx.singular_values(w[:, :2], (2, 8, 8), pad=1, boundary=b, k=3)
    yield "explain", lambda: im2colx.explain(x, w, pad=1).json()
    yield "plan.explain", lambda: im2colx.plan_conv2d(x.shape, w, pad=1, method="implicit").explain()
    yield "output_shape", lambda: im2colx.output_shape(x.shape, w.shape, pad=1)
    yield "info", lambda: im2colx.info()["im2colx"]
    yield "conv_to_fc and back", lambda: _recovered(w, shape)


def _parts(matrix):
    return matrix.data, matrix.indices, matrix.indptr


def _recovered(w, shape):
    fc = im2colx.conv_to_fc(w, shape, pad=1, form="image")
    return im2colx.fc_to_conv(fc.weights, shape, w.shape, pad=1, form="image")[0]


def training():
    """Products and steps of nn; a training from the same seed, whose weights are the result."""
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((130, 310)).astype("f4"), rng.standard_normal((310, 70)).astype("f4")
    images, labels = rng.standard_normal((20, 8, 8, 1)).astype("f4"), rng.standard_normal((20, 5)).astype("f4")

    def product():
        out = np.empty((130, 70), "f4")
        _kernels.matmul(a, b, out)
        return out

    def fit():
        layers = [nn.Conv2D(6, 3, layout="NHWC"), nn.ReLU(), nn.Flatten(), nn.Dense(5)]
        model = nn.Sequential(layers, input_shape=(8, 8, 1), seed=1)
        nn.Trainer(model, nn.MSE(), nn.Adam(), seed=1).fit(images, labels, 1, 10, progress=False)
        return model.get_weights()

    yield "a product of nn", product
    yield "a training", fit


def able(table):
    """Without the calls that a method declines."""
    for name, call in table:
        try:
            call()
        except ValueError as error:
            if "cannot take this call" not in str(error):
                raise
        else:
            yield name, call


def every(dtypes=TYPES, threads=(1, 2)):
    yield from able(convolutions(dtypes, threads))
    yield from matrices()
    yield from training()
