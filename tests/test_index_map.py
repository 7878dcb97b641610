"""The index map on one to three axes, through everything in the core that reads or writes by it."""

import numpy as np
import pytest
import trials

from im2colx import _core

DTYPES = ("float32", "float64", "complex64", "int64", "int32", "complex128")


@pytest.fixture(params=_core.instruction_sets())
def isa(request):
    before = _core.isa()
    assert _core.set_isa(request.param)
    yield request.param
    assert _core.set_isa(before)


def check(operands, number, **named):
    for run, arguments in trials.trials_of(operands, number, **named):
        result, right = run(operands, **arguments)
        np.testing.assert_array_equal(result, right, err_msg=f"{run.__name__} {arguments} of {operands.g}")


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_random_geometries(axes, isa):
    rng = np.random.default_rng(axes)
    for number in range(60):
        dtype = DTYPES[number % 2 if number % 3 else number // 3 % 6]
        check(trials.Operands(rng, trials.random_geometry(rng, axes, (7, 7, 30)[number % 3]), dtype), number)


def test_planes_that_are_moved_and_others():
    rng = np.random.default_rng(2)
    for number in range(4 * len(trials.PLANES)):  # each in every kind of memory
        check(trials.Operands(rng, trials.PLANES[number // 4], DTYPES[number % 2]), number)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_every_byte_of_an_element(axes, isa):
    rng = np.random.default_rng(10 + axes)
    for number in range(30):
        g = trials.random_geometry(rng, axes, (7, 30)[number // 2 % 2]) if number else trials.PHASES
        check(trials.Operands(rng, g, DTYPES[number % 2], is_picked=True), number)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("g", trials.GIANTS, ids=str)
def test_giants(g, channels_last):
    """Strides, pads and dilations up to 2**40: nothing that is formed of them wraps, or costs by their size."""
    rng = np.random.default_rng(0)
    g = trials.in_layout(g, channels_last)
    for number, dtype in enumerate(("float32", "float64", "int64", "float32")):
        check(trials.Operands(rng, g, dtype), number, is_giant=True)


@pytest.mark.parametrize("channels_last", [False, True])
def test_sums_and_outputs_that_are_cut(channels_last):
    """Large enough for several tasks, tiles, bands, chunks and pieces of everything."""
    rng = np.random.default_rng(1)
    for number, g in enumerate(trials.LARGE):
        check(trials.Operands(rng, trials.in_layout(g, channels_last), "float32"), 4 * number + 1)
