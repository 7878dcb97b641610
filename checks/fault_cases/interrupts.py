"""Ctrl-C in every long call: the exception comes within 200 ms, whenever the signal does, and the next call is right."""

import random
import sys

import numpy as np
from child import TESTS, at, check, equal, say

sys.path.insert(0, str(TESTS))
from interrupts import ALLOWED, latencies  # noqa: E402

import im2colx  # noqa: E402
from im2colx import PatchMatrix, conv_matrix, nn, plan_conv2d  # noqa: E402
from im2colx.nn import _kernels  # noqa: E402


def convolutions():
    """Each operation by each method, for some seconds; and strided, and of three threads more than there are CPUs."""
    y = None
    for method in im2colx.methods():
        n = {"naive": 4, "im2col": 4}.get(method, 48)  # of im2col, a patch matrix of 1 GB is enough
        x, w = np.ones((n, 256, 56, 56), "f4"), np.ones((256, 256, 3, 3), "f4")
        y = np.ones((n, 256, 54, 54), "f4")
        small = np.ones((n, 256, 27, 27), "f4")
        words = {"method": method}
        yield f"conv2d {method}", lambda x=x, w=w, y=y, m=words: im2colx.conv2d(x, w, out=y, **m)
        yield f"grad_input {method}", lambda x=x, w=w, y=y, m=words: im2colx.conv2d_grad_input(y, w, x.shape, out=x, **m)
        yield f"grad_weight {method}", lambda x=x, w=w, y=y, m=words: im2colx.conv2d_grad_weight(x, y, w.shape, out=w, **m)
        yield f"grad_input strided {method}", lambda x=x, w=w, y=small, m=words: im2colx.conv2d_grad_input(
            y, w, x.shape, stride=2, out=x, **m
        )
    x = np.ones((16, 64, 224, 224), "f4")
    yield "conv2d of int8", lambda x=x.astype("i1"): im2colx.conv2d(x, np.ones((64, 64, 3, 3), "i1"))
    yield "conv2d of float16", lambda x=x.astype("f2"): im2colx.conv2d(x, np.ones((64, 64, 3, 3), "f2"))
    yield "conv2d reversed", lambda x=x: im2colx.conv2d(x[..., ::-1], np.ones((64, 64, 3, 3), "f4"))
    large = np.ones((8192, 2048, 3, 3), "f4")
    yield "plan of 600 MB", lambda w=large: plan_conv2d((1, 2048, 8, 8), w, pad=1, method="implicit")
    yield "plan of 600 MB, no batch size", lambda w=large: plan_conv2d((2, 2048, 8, 8), w, pad=1)


def others():
    x = np.ones((4, 64, 224, 224), "f4")
    phi = PatchMatrix(x, 3, pad=1)
    last = PatchMatrix(x.reshape(4, 224, 224, 64), 3, pad=1, layout="NHWC")
    wide, tall = np.ones((576, 128), "f4"), np.ones((phi.shape[0], 128), "f4")
    yield "im2col", lambda: im2colx.im2col(x, 3, pad=1)
    patches = im2colx.im2col(x[:2], 3, pad=1)
    yield "col2im", lambda: im2colx.col2im(patches, (2, 64, 224, 224), 3, pad=1)
    yield "Φ[rows]", lambda: phi[::2]
    yield "Φ[:, columns]", lambda: phi[:, ::5]
    yield "Φ[rows], channels last", lambda: last[::2]
    yield "Φ.gram", phi.gram
    yield "Φ.gram of many columns", PatchMatrix(np.ones((1, 8000, 12, 12), "f4"), 1).gram
    yield "Φ.mean", phi.mean
    yield "Φ @", lambda: phi @ wide
    yield "Φ.T @", lambda: phi.T @ tall
    yield "@ Φ", lambda: tall.T @ phi
    yield "csr", lambda: conv_matrix(np.ones((64, 16, 3, 3), "f4"), (16, 112, 112), pad=1)
    yield "csr of many rows", lambda: conv_matrix(np.ones((256, 1, 1, 1), "f4"), (1, 600, 600))
    yield "csr, circular", lambda: conv_matrix(np.ones((32, 16, 3, 3), "f4"), (16, 112, 112), pad=1, boundary="circular")
    yield "dense", lambda: conv_matrix(np.ones((16, 8, 3, 3), "f4"), (8, 32, 32), pad=1, format="dense")
    w = np.random.default_rng(0).standard_normal((64, 64, 3, 3))
    yield "spectral_norm", lambda: im2colx.spectral_norm(w, (64, 112, 112), pad=1, tol=1e-8)
    yield "spectral_norm, circular", lambda: im2colx.spectral_norm(w, (64, 112, 112), pad="same", boundary="circular")
    yield "explain", lambda: [im2colx.explain((8, 64, 224, 224), (64, 64, 7, 7), pad=3).html() for _ in range(9)]


def training():
    a, b, c = np.ones((4096, 8000), "f4"), np.ones((8000, 4096), "f4"), np.ones((4096, 4096), "f4")
    yield "a product of nn", lambda: _kernels.matmul(a, b, c)
    step = _kernels.Pass("sgd", 1)
    yield "a step of nn", lambda: _kernels.step_along(_kernels.Product(a, b, _kernels.Room(), c.dtype), step, [c])
    model = nn.Sequential([nn.Conv2D(64, 3, layout="NHWC"), nn.ReLU(), nn.Flatten(), nn.Dense(256)], input_shape=(56, 56, 3), seed=1)
    trainer = nn.Trainer(model, nn.MSE(), nn.Adam(), seed=1)
    images, labels = np.ones((512, 56, 56, 3), "f4"), np.ones((512, 256), "f4")
    yield "a training", lambda: trainer.fit(images, labels, 1, 64, progress=False)


def main(size, seed):
    rng = random.Random(int(seed))
    count = 3 if size == "quick" else 60
    probe = np.ones((2, 3, 8, 8), "f4"), np.ones((2, 3, 3, 3), "f4")
    for table in (convolutions, others, training):
        for name, call in table():
            at(name)
            # From the first milliseconds, where things are prepared, on.
            found = latencies(call, [0.005, *(rng.choice((0.05, 0.5, 2)) * rng.random() for _ in range(count - 1))])
            worst = 1000 * max(found, default=0)
            check(worst <= 1000 * ALLOWED, f"{name}: {worst:.0f} ms from the signal to the exception, in one of {len(found)} interrupts")
            check(found, f"{name}: over before any of {count} signals")
            check(equal(im2colx.conv2d(*probe), np.full((2, 2, 6, 6), 27, "f4")), f"{name}: after it, a wrong result")
            if worst > 100:
                say(f"{name}: up to {worst:.0f} ms")


if __name__ == "__main__":
    main(*sys.argv[1:])
