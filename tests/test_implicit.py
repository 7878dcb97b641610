"""The implicit method: every instruction set, every cut of its sums, and the same bits whatever does not matter."""

import os
import subprocess
import sys

import numpy as np
import pytest
from cases import LAYOUTS, random_case, small_integers

import im2colx
from im2colx import _core, _plan, _reference
from im2colx._geometry import resolve


@pytest.fixture
def restored_isa():
    before = _core.isa()
    yield
    assert _core.set_isa(before)


@pytest.mark.parametrize("isa", _core.instruction_sets())
def test_every_instruction_set_is_exact(isa, restored_isa):
    """Forward and gradients on small integers, both types, layouts and orientations; and the level is truly used."""
    assert _core.set_isa(isa)
    rng = np.random.default_rng(0)
    for number in range(80):
        case, layout, dtype = random_case(rng), LAYOUTS[number % 2], ("float32", "float64")[number // 2 % 2]
        x, w = (small_integers(rng, shape, dtype) for shape in (case.x_shape(layout), case.w_shape(layout)))
        geometry = resolve(x.shape, w.shape, *case.geometry, layout)
        grad, bias = small_integers(rng, geometry.y_shape, dtype), small_integers(rng, case.f, dtype)
        for orientation in ("either", "pixels", "filters"):
            def problem(op, geometry=geometry, dtype=dtype, orientation=orientation, **known):
                return _core.Problem(geometry, op, np.dtype(dtype).str[1:], "implicit", 0, 2, orientation=orientation, **known)

            assert problem("forward").explain()["isa"] == isa
            y, grad_x, grad_w = (np.full(shape, np.nan, dtype) for shape in (geometry.y_shape, x.shape, w.shape))
            problem("forward").run(x, w, y, bias)
            problem("grad_input").run(grad_x, w, grad)
            problem("grad_weight").run(x, grad_w, grad)
            np.testing.assert_array_equal(y, _reference.conv2d(x, w, *case.geometry, bias, layout))
            np.testing.assert_array_equal(grad_x, _reference.conv2d_grad_input(grad, w, x.shape, *case.geometry, layout))
            np.testing.assert_array_equal(grad_w, _reference.conv2d_grad_weight(x, grad, w.shape, *case.geometry, layout))
            packed = problem("forward").pack(w)
            y.fill(np.nan)
            problem("forward", is_finite=True).run(x, w, y, bias, packed)
            np.testing.assert_array_equal(y, _reference.conv2d(x, w, *case.geometry, bias, layout))


# Sums of several pieces, chunks and panels, slabs of several bands, kernels of many taps: (x, w, arguments)
LARGE = [
    ((2, 300, 12, 13), (70, 300, 3, 3), (1, 1, 1, 1)),
    ((1, 1500, 7, 7), (33, 1500, 1, 1), (1, 0, 1, 1)),
    ((1, 64, 90, 100), (20, 64, 3, 3), (1, 1, 1, 1)),
    ((1, 2, 70, 75), (5, 2, 41, 37), (1, 20, 1, 1)),
    ((1, 96, 40, 41), (130, 48, 5, 3), (2, 2, 1, 2)),
    ((1, 40, 60, 61), (17, 40, 3, 3), (3, 4, 3, 1)),
    ((3, 7, 33, 200), (9, 7, 7, 7), ((2, 3), "same", 1, 1)),
]


@pytest.mark.parametrize(("x_shape", "w_shape", "arguments"), LARGE, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_large_sums(x_shape, w_shape, arguments, layout):
    """Exact on small integers for all operations, against "indexed", which is exact against the reference elsewhere."""
    rng = np.random.default_rng(1)
    x, w = (rng.integers(-2, 3, shape).astype("float64") for shape in (x_shape, w_shape))
    if layout == "NHWC":
        x, w = np.ascontiguousarray(x.transpose(0, 2, 3, 1)), np.ascontiguousarray(w.transpose(2, 3, 1, 0))
    named = {"layout": layout}
    y = im2colx.conv2d(x, w, *arguments, **named, method="indexed")
    grad = rng.integers(-2, 3, y.shape).astype("float64")
    expected = [
        y,
        y,
        im2colx.conv2d_grad_input(grad, w, x.shape, *arguments, **named, method="indexed"),
        im2colx.conv2d_grad_weight(x, grad, w.shape, *arguments, **named, method="indexed"),
    ]
    for threads in (1, 3):
        named = {"layout": layout, "method": "implicit", "threads": threads}
        results = [
            im2colx.conv2d(x, w, *arguments, **named),
            im2colx.plan_conv2d(x.shape, w, *arguments, **named)(x),
            im2colx.conv2d_grad_input(grad, w, x.shape, *arguments, **named),
            im2colx.conv2d_grad_weight(x, grad, w.shape, *arguments, **named),
        ]
        for result, right in zip(results, expected, strict=True):
            np.testing.assert_array_equal(result, right)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_bits(layout):
    """For any threads, out or none, position in the batch, alignment and strides of x; forward, planned and gradients."""
    rng = np.random.default_rng(2)
    n, c, hw, f = 4, 40, 30, 50
    x = rng.standard_normal((n, c, hw, hw) if layout == "NCHW" else (n, hw, hw, c)).astype("f4")
    w = rng.standard_normal((f, c, 3, 3) if layout == "NCHW" else (3, 3, c, f)).astype("f4")
    args = {"stride": 1, "pad": 1, "layout": layout, "method": "implicit"}
    y = im2colx.conv2d(x, w, **args, threads=1)
    grad = rng.standard_normal(y.shape).astype("f4")
    planned = im2colx.plan_conv2d(x.shape, w, **args, threads=1)(x)
    grad_x = im2colx.conv2d_grad_input(grad, w, x.shape, **args, threads=1)
    grad_w = im2colx.conv2d_grad_weight(x, grad, w.shape, **args, threads=1)
    for threads in range(2, 9):
        named = {**args, "threads": threads}
        assert np.array_equal(im2colx.conv2d(x, w, **named), y)
        assert np.array_equal(im2colx.plan_conv2d(x.shape, w, **named)(x), planned)
        assert np.array_equal(im2colx.conv2d_grad_input(grad, w, x.shape, **named), grad_x)
        assert np.array_equal(im2colx.conv2d_grad_weight(x, grad, w.shape, **named), grad_w)
    for image in range(n):
        assert np.array_equal(im2colx.conv2d(x[image : image + 1], w, **args), y[image : image + 1])
        assert np.array_equal(im2colx.conv2d(x[::-1], w, **args)[image], y[n - 1 - image])
    for offset in (1, 2, 5):
        buffer = np.empty(x.size + offset, "f4")[offset:].reshape(x.shape)
        buffer[...] = x
        out = np.empty(y.size + offset, "f4")[offset:].reshape(y.shape)
        assert np.array_equal(im2colx.conv2d(buffer, w, **args, out=out), y)
    spread = np.empty((*x.shape[:-1], 2 * x.shape[-1]), "f4")[..., ::2]
    spread[...] = x
    assert np.array_equal(im2colx.conv2d(spread, w, **args), y)


def test_infinite_weights_meet_the_padding():
    """A plan leaves out products with the padding only where every weight is finite: 0 * inf is nan."""
    x, w = np.ones((1, 64, 14, 14), "f4"), np.ones((64, 64, 3, 3), "f4")
    assert (im2colx.plan_conv2d(x.shape, w, pad=1)(x) == im2colx.conv2d(x, w, pad=1)).all()
    w[5, 3, 0, 1] = np.inf
    for y in (im2colx.plan_conv2d(x.shape, w, pad=1, method="implicit")(x), im2colx.conv2d(x, w, pad=1, method="implicit")):
        assert np.isnan(y[0, 5, 0]).all() and (y[0, 5, 1:] == np.inf).all() and np.isfinite(y[0, :5]).all()


# With padding on few or many sides, taps and channels of every number, and outputs that no tap reaches.
PADDED = [
    ((1, 48, 14, 15), (40, 48, 3, 3), (1, 1, 1, 1)),
    ((2, 130, 7, 7), (70, 130, 3, 3), (1, 1, 1, 1)),
    ((1, 36, 20, 21), (34, 18, 3, 3), (1, ((2, 0), (0, 3)), 2, 2)),
    ((1, 3, 60, 61), (24, 3, 7, 7), (2, 3, 1, 1)),
    ((1, 64, 9, 300), (20, 64, 1, 5), (1, ((1, 2), (2, 1)), 1, 1)),
    ((1, 20, 12, 1), (130, 20, 3, 3), (1, ((4, 3), (1, 5)), 1, 1)),
    ((1, 128, 64, 64), (8, 128, 3, 3), (2, 1, 1, 1)),
    ((1, 7, 30, 31), (12, 7, 11, 11), (1, 9, 1, 1)),
    ((1, 4, 16, 40), (8, 4, 5, 13), (1, (2, 6), 1, 1)),  # one class of outputs more than there is room for
    ((1, 64, 1, 300), (32, 64, 1, 2), (1, ((0, 0), (5, 5)), 1, 1)),  # at both ends outputs without a tap
    ((1, 16, 30, 31), (12, 16, 11, 1), (1, (9, 0), 1, 1)),  # more cuts of one axis than there is room for
    ((1, 16, 30, 31), (12, 16, 1, 11), (1, (0, 9), 1, 1)),
    ((1, 8, 20, 21), (8, 8, 8, 8), (1, ((3, 4), (3, 4)), 1, 1)),  # as many classes as there may be, of too many taps
]


@pytest.mark.parametrize("isa", _core.instruction_sets())
@pytest.mark.parametrize("x_shape, w_shape, arguments", PADDED)
def test_padding_left_out_changes_no_bit(x_shape, w_shape, arguments, isa, restored_isa):
    """With finite weights the taps in the padding are left out; a filter with an infinite one forbids it, and has to meet them."""
    assert _core.set_isa(isa)
    rng = np.random.default_rng(1)
    geometry = resolve(x_shape, w_shape, *arguments, "NCHW")
    for dtype in ("float32", "float64"):
        x, w = (rng.standard_normal(shape).astype(dtype) for shape in (x_shape, w_shape))
        infinite = w.copy()
        infinite[-1] = np.inf
        left_out, full = (np.full(geometry.y_shape, np.nan, dtype) for _ in range(2))
        made = geometry, "forward", np.dtype(dtype).str[1:], "implicit", 0, 1
        with np.errstate(invalid="ignore"):
            _core.Problem(*made, orientation="filters").run(x, infinite, full)
        problem = _core.Problem(*made, orientation="filters", is_finite=True)
        problem.run(x, w, left_out)
        np.testing.assert_array_equal(left_out[:, :-1], full[:, :-1])
        assert np.isnan(full[:, -1]).any() and not np.isnan(left_out).any()
        integers = small_integers(rng, x_shape, dtype), small_integers(rng, w_shape, dtype)
        problem.run(*integers, left_out)
        np.testing.assert_array_equal(left_out, _reference.conv2d(*integers, geometry.stride, geometry.pad, geometry.dilation, geometry.groups))


def test_a_patch_that_is_too_large_is_declined():
    x, w = np.broadcast_to(np.float32(0), (1, 300, 40, 40)), np.zeros((1, 300, 40, 40), "f4")
    with pytest.raises(ValueError, match="a thread of it needs [0-9,]+ bytes, more than the 1,572,864 that it may take"):
        im2colx.conv2d(x, w, pad=1, method="implicit")
    assert im2colx.conv2d(x, w, method="implicit").shape == (1, 1, 1, 1)  # without padding nothing is copied
    assert im2colx.conv2d(x, w, pad=1).shape == (1, 1, 3, 3)  # "auto" takes another
    with pytest.raises(ValueError, match="a thread of it needs [0-9,]+ bytes"):
        im2colx.conv2d_grad_weight(np.zeros((710, 710)), np.zeros((11, 11)), (700, 700), method="implicit")


def test_the_workspace_is_bounded():
    """At most 1.5 MiB a thread, whatever the image, batch and kernel."""
    rng = np.random.default_rng(3)
    for _ in range(300):
        c, f, n = (int(rng.integers(1, high)) for high in (600, 600, 9))
        k, hw = int(rng.choice([1, 3, 5, 7, 11])), int(rng.choice([7, 14, 56, 224, 4222]))
        layout = LAYOUTS[int(rng.integers(2))]
        x_shape = (n, c, hw, hw) if layout == "NCHW" else (n, hw, hw, c)
        w_shape = (f, c, k, k) if layout == "NCHW" else (k, k, c, f)
        geometry = resolve(x_shape, w_shape, int(rng.integers(1, 3)), k // 2, 1, 1, layout)
        for op in ("forward", "grad_input", "grad_weight"):
            for threads in (1, 2, 8):
                facts = _core.Problem(geometry, op, "f4", "implicit", 0, threads).explain()
                assert facts["workspace_nbytes"] <= 1.5 * 2**20 * threads, (geometry, op, facts)


def test_the_environment_forces_a_level():
    code = "import im2colx; print(im2colx.info()['cpu']['used'])"
    for name in _core.instruction_sets():
        env = {**os.environ, "IM2COLX_ISA": name}
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env).stdout.strip() == name
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "IM2COLX_ISA": "mmx"})
    assert result.returncode != 0 and "IM2COLX_ISA is 'mmx', but this machine has only scalar" in result.stderr


def test_the_short_way_is_the_long_way():
    """Calls that are made again take a short cut; it gives the same results, and leaves what is unusual alone."""
    rng = np.random.default_rng(4)
    x, w, bias = rng.standard_normal((2, 3, 9, 9)), rng.standard_normal((4, 3, 3, 3)), rng.standard_normal(4)
    for named in ({}, {"stride": 2}, {"stride": (2, 1)}, {"pad": 1}, {"pad": (1, 2)}, {"pad": ((1, 0), (2, 1))}, {"pad": "same"},
                  {"dilation": 2}, {"method": "indexed"}, {"method": "naive"}, {"threads": 1}, {"precision": "exact"}):  # fmt: skip
        first = im2colx.conv2d(x, w, **named)  # the long way, which remembers
        out = np.empty_like(first)
        assert np.array_equal(im2colx.conv2d(x, w, **named), first)
        assert im2colx.conv2d(x, w, **named, out=out) is out and np.array_equal(out, first)
        assert np.array_equal(im2colx.conv2d(x, w, **named, bias=bias), im2colx.conv2d(x, w, **named, bias=bias.tolist()))
        np.testing.assert_array_equal(im2colx.conv2d(x[::-1, :, ::-1], w, **named), im2colx.conv2d(x[::-1, :, ::-1].copy(), w, **named))
    im2colx.conv2d(x, w)
    wrong = {
        "stride": [True, 1.0, 0, (1, 1.0), "1"], "pad": [True, -1, "SAME", (1, 1, 1, 1)], "dilation": [0, True],
        "groups": [True, 0, 2], "threads": [True, 0], "out": [x, np.empty((2, 4, 7, 6)), np.empty((2, 4, 7, 7), "f4")],
        "bias": [np.ones(3)], "layout": ["nchw"], "method": ["fast"], "precision": ["low"], "workspace": [0],
    }  # fmt: skip
    for name, values in wrong.items():
        for value in values:
            with pytest.raises((TypeError, ValueError)):
                im2colx.conv2d(x, w, **{name: value})
    pointwise, other = np.ones((3, 3, 1, 1)), np.ones(3)
    im2colx.conv2d(x, pointwise)  # remembered
    small = np.ones((3, 3, 1, 1))
    im2colx.conv2d(small, small)
    for overlapping, named in ((x, {"x": x}), (small, {"x": small.copy(), "w": small})):
        with pytest.raises(ValueError, match="out overlaps"):
            im2colx.conv2d(**{"w": pointwise, **named}, out=overlapping)
    column = np.ones((1, 3, 1, 1))
    im2colx.conv2d(column, pointwise)
    with pytest.raises(ValueError, match="out overlaps bias"):
        im2colx.conv2d(column, pointwise, bias=other, out=other.reshape(1, 3, 1, 1))
    swapped = x.astype(">f8")
    assert np.array_equal(im2colx.conv2d(swapped, w), im2colx.conv2d(x, w))
    assert im2colx.conv2d(x.astype("f4"), w).dtype == np.float64


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_plan_gives_the_same_bits_for_any_x_in_memory(layout):
    """Unaligned, spread or byte-swapped x goes the long way, and is summed in the same order as x that takes the short one."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((2, 64, 14, 14) if layout == "NCHW" else (2, 14, 14, 64)).astype("f4")
    w = rng.standard_normal((64, 64, 3, 3) if layout == "NCHW" else (3, 3, 64, 64)).astype("f4")
    plan = im2colx.plan_conv2d(x.shape, w, pad=1, layout=layout, method="implicit")
    y = plan(x)
    unaligned = np.zeros(x.nbytes + 1, "u1")[1:].view("f4").reshape(x.shape)
    unaligned[...] = x
    spread = np.empty((*x.shape[:-1], 2 * x.shape[-1]), "f4")[..., ::2]
    spread[...] = x
    for other in (unaligned, spread, x.astype(">f4"), x.tolist()):
        if isinstance(other, list):
            other = np.asarray(other, "f4")
        assert np.array_equal(plan(other), y)


def test_workspace_bounds_the_implicit_method_too():
    x, w = np.ones((1, 64, 56, 56), "f4"), np.ones((64, 64, 3, 3), "f4")
    expected = im2colx.conv2d(x, w, pad=1)
    geometry = resolve(x.shape, w.shape, 1, 1, 1, 1, "NCHW")
    alone = _plan.recipe("forward", geometry, "f4", "implicit", None, 1).problem.workspace_nbytes()
    for workspace, threads in ((alone, 1), (2 * alone, 2), (3 * alone, 2)):
        recipe = _plan.recipe("forward", geometry, "f4", "implicit", workspace, 2)
        assert recipe.problem.workspace_nbytes() <= workspace and recipe.threads == threads
    with pytest.raises(ValueError, match=f"more than workspace={alone - 1:,}"):
        im2colx.conv2d(x, w, pad=1, method="implicit", workspace=alone - 1)
    assert _plan.recipe("forward", geometry, "f4", "auto", alone - 1, 2).method.name == "indexed"
    np.testing.assert_array_equal(im2colx.conv2d(x, w, pad=1, workspace=100_000), expected)


def test_the_bands_of_grad_weight_do_not_depend_on_threads():
    """Here the size of a slab decides them, and the channels of a task are fewer with more threads."""
    rng = np.random.default_rng(6)
    x, grad = rng.standard_normal((1, 113, 6, 200)).astype("f4"), rng.standard_normal((1, 70, 6, 200)).astype("f4")
    results = [
        im2colx.conv2d_grad_weight(x, grad, (70, 113, 3, 3), pad=1, method="implicit", threads=threads) for threads in (1, 3, 5)
    ]
    assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.parametrize("isa", _core.instruction_sets())
def test_burn_counts_its_operations(isa, restored_isa):
    """Sixteen vectors of multiply-adds a round, of twice as many float32 as float64."""
    assert _core.set_isa(isa)
    lanes = {"scalar": 1, "avx2": 8, "avx512": 16}.get(isa, 4)
    assert _core.burn("f4", 3) == 3 * 2 * 16 * lanes
    assert _core.burn("f8", 3) == 3 * 2 * 16 * max(1, lanes // 2)
