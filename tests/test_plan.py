"""Plan: what conv2d gives, prepared once; and the choice of a method."""

import numpy as np
import pytest
from cases import CASES, LAYOUTS, methods, methods_for, small_integers

import im2colx
from im2colx import _core, _plan
from im2colx._geometry import resolve
from im2colx._methods import METHODS, PRECISIONS, choose, phi_nbytes


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_plan_is_the_convolution(case, layout):
    rng = np.random.default_rng(0)
    for method in methods():
        for dtype in ("float32", "complex128", "int8", "float16"):
            if method not in methods_for(dtype):
                continue
            x, w = (small_integers(rng, shape, dtype) for shape in (case.x_shape(layout), case.w_shape(layout)))
            bias = small_integers(rng, case.f, dtype)
            expected = im2colx.conv2d(x, w, *case.geometry, bias=bias, layout=layout)
            plan = im2colx.plan_conv2d(x.shape, w, *case.geometry, bias=bias, layout=layout, method=method)
            assert plan.x_shape == x.shape and plan.y_shape == expected.shape
            w[...] = 0  # the plan has its own
            bias[...] = 0
            out = np.empty(expected.shape, expected.dtype)
            assert plan(x, out=out) is out
            for y in (plan(x), out):
                assert y.dtype == expected.dtype
                np.testing.assert_array_equal(y, expected)


def test_a_plan_tells_what_it_holds():
    w = np.ones((8, 4, 3, 3), "float32")
    plan = im2colx.plan_conv2d((2, 4, 20, 20), w, pad=1, bias=np.ones(8, "float32"))
    assert plan.nbytes >= w.nbytes + 32
    assert im2colx.plan_conv2d((2, 4, 20, 20), w, bias=w[:, 0, 0, 0], method="indexed").nbytes == w.nbytes + 32
    text = plan.explain()
    for fact in ("(2, 4, 20, 20)", "(8, 4, 3, 3)", "800 x 36", f"{plan.workspace_nbytes:,} bytes", *methods()[1:]):
        assert fact in text
    whole = im2colx.plan_conv2d((2, 4, 20, 20), w, pad=1, method="im2col")
    assert whole.workspace_nbytes == 800 * 36 * 4
    assert im2colx.plan_conv2d((2, 4, 20, 20), w, method="naive").workspace_nbytes == 0
    with pytest.raises(ValueError, match=r"x has shape \(1, 4, 20, 20\), but the plan was made for \(2, 4, 20, 20\)"):
        plan(np.ones((1, 4, 20, 20), "float32"))
    with pytest.raises(ValueError, match="out"):
        plan(np.ones((2, 4, 20, 20), "float32"), out=np.empty((2, 8, 20, 19), "float32"))


def test_a_plan_is_printed_by_what_it_maps():
    plan = im2colx.plan_conv2d((2, 3, 5, 6), np.ones((4, 3, 2, 2), "f4"), method="indexed")
    assert repr(plan) == "<Plan x (2, 3, 5, 6) float32 -> (2, 4, 4, 5), method 'indexed'>"


def test_a_plan_tells_what_it_leaves_out():
    """Of three taps on 7 pixels, 19 of 21 fall inside, on both axes; where padding is left out x need not be copied."""
    w = np.ones((64, 256, 3, 3), "float32")
    plan = im2colx.plan_conv2d((1, 256, 7, 7), w, pad=1, method="implicit")
    assert "x read where it lies, the padding left out (81.9% of the multiply-adds remain)" in plan.explain()
    inner = im2colx.plan_conv2d((1, 256, 7, 7), w, method="implicit")
    assert "left out" not in inner.explain()
    w[5, 6, 1, 2] = np.inf
    exact = im2colx.plan_conv2d((1, 256, 7, 7), w, pad=1, method="implicit")  # inf * 0 is nan: it has to be computed
    assert "left out" not in exact.explain() and exact.workspace_nbytes > plan.workspace_nbytes
    geometry = resolve((2, 8, 9, 9), (6, 4, 3, 3), 1, 1, 1, 2, "NCHW")
    for op in ("forward", "grad_input", "grad_weight"):
        facts = _core.Problem(geometry, op, "f4", "implicit", 0, 1).explain()
        assert facts["multiply_adds"] == geometry.multiply_adds == 2 * 9 * 9 * 9 * 8 * 6 // 2


def test_a_plan_for_another_type_than_its_weights():
    w = np.ones((2, 3, 3, 3), "float32")
    plan = im2colx.plan_conv2d((1, 3, 5, 5), w, dtype=np.float64)
    assert plan.dtype == np.float64
    assert plan(np.ones((1, 3, 5, 5))).dtype == np.float64


def test_a_pointwise_convolution_needs_no_workspace():
    """Phi of a 1x1 kernel is x itself, for contiguous x; strided ones are gathered."""
    w = np.ones((8, 4, 1, 1), "float32")
    assert im2colx.plan_conv2d((2, 4, 20, 20), w, method="im2col").workspace_nbytes == 0
    assert im2colx.plan_conv2d((2, 4, 20, 20), w, stride=2, method="im2col").workspace_nbytes > 0
    x = np.arange(2 * 4 * 40 * 40, dtype="float32").reshape(2, 4, 40, 40)[:, :, ::2, ::2]
    np.testing.assert_array_equal(im2colx.conv2d(x, w), im2colx.conv2d(x.copy(), w))


def test_workspace_is_a_bound_for_every_shape():
    rng = np.random.default_rng(1)
    for _ in range(200):
        c, k, hw = (int(rng.integers(1, high)) for high in (300, 8, 60))
        geometry = resolve((int(rng.integers(1, 9)), c, hw, hw), (int(rng.integers(1, 70)), c, k, k), 1, k, 1, 1, "NCHW")
        for workspace in (4, 1000, 100_000, 4 << 20):
            for op in ("forward", "grad_input", "grad_weight"):
                for threads in (1, 2, 7):
                    recipe = _plan.recipe(op, geometry, "f4", "indexed", workspace, threads)
                    assert recipe.problem.workspace_nbytes() <= workspace


def test_auto_weighs_the_methods():
    tiny = resolve((1, 1, 4, 4), (1, 1, 3, 3), 1, 0, 1, 1, "NCHW")
    large = resolve((1, 64, 56, 56), (64, 64, 3, 3), 1, 1, 1, 1, "NCHW")
    assert choose("auto", "forward", tiny, "f4", None)[0].name == "naive"
    if _core.isa() == _core.instruction_sets()[-1]:  # forced to a plainer one, it may well lose to BLAS
        assert choose("auto", "forward", large, "f4", None)[0].name == "implicit"
    chosen, findings = choose("auto", "forward", large, "f4", phi_nbytes(large, "f4") - 1)
    assert "more than workspace" in findings["im2col"]
    assert set(findings) == {method.name for method in METHODS}


def test_sizes_beyond_the_integers_of_blas_are_declined():
    huge = resolve((1, 1, 2**20, 2**20), (1, 1, 1, 1), 1, 0, 1, 1, "NCHW")
    for method in METHODS:
        reason = method.declines("forward", huge, "f4", None)
        if method.is_blas and _plan._blas.INTEGER_BITS == 32:
            assert str(2**40) in reason
        else:
            assert reason is None


def test_the_cache_of_recipes_is_bounded():
    x = np.ones((1, 1, 4, 600))
    for width in range(3, 500):
        im2colx.conv2d(x, np.ones((1, 1, 1, width)))
    facts = _plan.recipe.cache_info()
    assert facts.currsize == facts.maxsize == 256


def test_what_decides_a_result_is_in_every_key():
    """A recipe and the short way are found by precision and by the number of threads, also by the one that None stands for."""
    x, w = np.ones((1, 3, 9, 9)), np.ones((4, 3, 3, 3))
    geometry = resolve(x.shape, w.shape, 1, 0, 1, 1, "NCHW")
    found = {precision: _plan.recipe("forward", geometry, "f8", "auto", None, 1, precision) for precision in PRECISIONS}
    assert len({id(recipe) for recipe in found.values()}) == len(PRECISIONS)

    def quick(precision, threads):
        return _core.quick_conv2d(x, w, 1, 0, 1, 1, None, "NCHW", "auto", precision, None, None, threads)

    before = im2colx.get_num_threads()
    try:
        im2colx.set_num_threads(7)
        assert quick("fast", None) is None
        im2colx.conv2d(x, w, precision="fast")
        assert quick("fast", None) is not None and quick("fast", 7) is not None
        assert all(quick(*other) is None for other in (("exact", None), ("standard", None), ("fast", 3)))
        im2colx.set_num_threads(3)
        assert quick("fast", None) is None and quick("fast", 7) is not None
    finally:
        im2colx.set_num_threads(before)
