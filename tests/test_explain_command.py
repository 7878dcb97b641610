"""explain: the picture, files, the command, and its errors."""

import json
import sys

import numpy as np
import pytest
from cases import LAYOUTS
from explained import LARGE, PAPER_LIKE, Page, typeset

from im2colx import cli, datasets, explain

# ---- Picture, files, command ----------------------------------------------------------------------------------------


def test_the_picture():
    from matplotlib.figure import Figure

    e = explain((1, 2, 5, 5), (3, 2, 3, 3), **PAPER_LIKE)
    figure = e.figure()
    assert isinstance(figure, Figure)
    texts = [text.get_text() for text in figure.axes[0].texts]
    for wanted in ("−373", "⌊4 / 2⌋ + 1 = 3", "Φ[1, q]", "M, 27 × 50", "Φ, 9 × 18", "= 1·2 + 0·1 − 1"):
        assert any(wanted in text for text in texts), wanted
    assert [text for text in texts if text in ("padding", "0,1,1,3")] == ["padding"] * 6 + ["0,1,1,3"]
    light = e.png()
    assert light.startswith(b"\x89PNG") and light == e.png() and figure.get_facecolor() != e.figure(dark=True).get_facecolor()
    width, height = (int.from_bytes(light[start : start + 4], "big") for start in (16, 20))
    assert width == 1650 and 1500 < height < 4000
    *shapes, options = LARGE[5]
    assert len(explain(*shapes, **options).png()) < 800_000


def test_awkward_shapes_are_drawn_too():
    for x_shape, w_shape, options in (
        ((2, 2, 0, 3), (3, 2, 2, 2), {"pad": ((1, 1), (0, 0))}),  # no pixels
        ((1, 2, 5, 6), (3, 2, 3, 3), {"pad": 50, "at": (0, 0, 0, 0)}),  # none in sight
        ((1, 1, 1, 1), (1, 1, 1, 1), {}),
        ((1, 70, 2), (1, 30, 2, 5), {"layout": "NHWC", "dilation": 2}),
    ):
        e = explain(x_shape, w_shape, **options)
        texts = [text.get_text() for text in e.figure().axes[0].texts]
        assert any(f"conv2d gives {typeset(e.facts['y'])}" in text for text in texts)
        page = Page(e.html())
        assert page.slots["y"] == [typeset(e.facts["y"])] and len(page.labels) == 2
        assert max(map(len, e.text().splitlines())) <= 80


def test_without_matplotlib_the_error_names_the_extra(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    e = explain((1, 1, 4, 4), (1, 1, 2, 2))
    with pytest.raises(ImportError, match=r"pip install matplotlib"):
        e.png()
    assert e.text() and e.html()
    assert cli.main(["explain", "--out", str(tmp_path / "x.png")]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_save_writes_what_the_ending_says(tmp_path):
    e = explain((1, 1, 4, 4), (1, 1, 2, 2))
    for ending, content in ((".html", e.html()), (".txt", e.text() + "\n"), (".json", e.json() + "\n")):
        e.save(tmp_path / f"x{ending}")
        assert (tmp_path / f"x{ending}").read_text(encoding="utf-8") == content
    e.save(tmp_path / "X.PNG")
    assert (tmp_path / "X.PNG").read_bytes().startswith(b"\x89PNG")
    e.save(tmp_path / "plain", "text")
    assert (tmp_path / "plain").read_text(encoding="utf-8") == e.text() + "\n"
    for bad in (lambda: e.save(tmp_path / "x.pdf"), lambda: e.save(tmp_path / "x.html", "pdf")):
        with pytest.raises(ValueError, match="must (end in|be one of)"):
            bad()
    assert len(list(tmp_path.iterdir())) == 5


COMMAND = ["explain", "--x", "1,2,5,5", "--w", "3,2,3,3", "--stride", "2", "--pad", "1", "--at", "0,0,0,1"]


def test_the_command(capsys, tmp_path):
    e = explain((1, 2, 5, 5), (3, 2, 3, 3), **PAPER_LIKE)
    assert cli.main(COMMAND) == 0
    assert capsys.readouterr().out == e.text() + "\n"
    assert cli.main([*COMMAND, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(e.json())
    assert cli.main([*COMMAND, "--format", "html"]) == 0
    assert capsys.readouterr().out == e.html() + "\n"
    for name, options in (
        ("a.html", []),
        ("b.txt", []),
        ("c.png", ["--format", "png"]),
        ("d", ["--format", "html"]),
        ("e.json", []),
    ):
        assert cli.main([*COMMAND, "--out", str(tmp_path / name), *options]) == 0
        assert capsys.readouterr().out == f"Wrote {tmp_path / name}\n"
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == (tmp_path / "d").read_text(encoding="utf-8") == e.html()
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main([*COMMAND, "--out", str(tmp_path / "a.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["y"] == -373
    assert cli.main(["explain"]) == 0
    assert "x (1, 2, 5, 5), w (3, 2, 3, 3) -> y (1, 3, 3, 3)" in capsys.readouterr().out


def test_options_of_the_command(capsys):
    def facts(*options):
        assert cli.main(["explain", *options, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    call = facts(
        "--x",
        "2,9,8,4",
        "--w",
        "3,2,2,6",
        "--layout",
        "NHWC",
        "--stride",
        "2,1",
        "--pad",
        "1:0,0:2",
        "--dilation",
        "1,2",
        "--groups",
        "2",
    )["call"]
    assert (call["stride"], call["pad"], call["dilation"], call["groups"]) == ([2, 1], [[1, 0], [0, 2]], [1, 2], 2)
    assert facts("--pad", "same")["call"]["y_shape"] == [1, 3, 5, 5]
    assert facts("--pad", "1,2", "--dtype", "float64")["call"]["pad"] == [[1, 1], [2, 2]]
    assert facts("--x", "6,6", "--w", "2,2")["call"]["y_shape"] == [5, 5]


@pytest.fixture
def digits_of_mnist(monkeypatch):
    """Three images that stand for MNIST's."""
    images = np.random.default_rng(11).integers(0, 256, (3, 28, 28)).astype(np.uint8)
    found = datasets.MNIST(images, np.array([5, 0, 4], np.uint8), images, np.array([1, 2, 3], np.uint8), {"name": "digits"})
    monkeypatch.setattr(datasets, "load_mnist", lambda data: found)
    return images


def test_a_digit_of_all_60000_is_one_of_mnist(capsys, monkeypatch):
    images, labels = np.broadcast_to(np.uint8(7), (60000, 28, 28)), np.broadcast_to(np.uint8(5), 60000)
    monkeypatch.setattr(datasets, "load_mnist", lambda data: datasets.MNIST(images, labels, images, labels, {"name": "digits"}))
    assert cli.main(["explain", "--image", "mnist:59999", "--kernel", "7", "--stride", "7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["call"]["title"] == "training image 59999 of MNIST, a handwritten 5"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_worked_example_of_the_paper_on_a_digit(capsys, digits_of_mnist, layout):
    """Fig. 6: one 28 x 28 image, one 7 x 7 filter with a stride of 7: 16 patches of 49 that do not overlap."""
    assert cli.main(["explain", "--image", "mnist:2", "--kernel", "7", "--stride", "7", "--layout", layout, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["phi"] == {"rows": 16, "columns": 49, "entries": 784} and facts["weights"]["columns"] == 1
    assert facts["call"]["title"] == "training image 2 of 3 (digits), a handwritten 4"
    np.testing.assert_array_equal(facts["x"][0][0], digits_of_mnist[2])
    filter_ = np.tile([-1, -1, -1, 0, 1, 1, 1], (7, 1))
    np.testing.assert_array_equal(facts["w"][0], filter_.ravel())
    blocks = digits_of_mnist[2].astype(int).reshape(4, 7, 4, 7).swapaxes(1, 2)
    np.testing.assert_array_equal(facts["y_values"][0][0], (blocks * filter_).sum(axis=(2, 3)))
    assert facts["uses"]["most"] == 1 and facts["uses"]["never"] == 0
    assert facts["matrix"]["weight_most"] == 16 and facts["left_out"]["what"] == []


def test_a_picture_file(capsys, tmp_path):
    from matplotlib.image import imsave

    pixels = np.random.default_rng(12).integers(0, 256, (9, 11, 3)).astype(np.uint8)
    imsave(tmp_path / "picture.png", pixels)  # with an opaque fourth channel
    assert cli.main(["explain", "--image", str(tmp_path / "picture.png"), "--kernel", "3", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["call"]["x_shape"] == [1, 3, 9, 11] and facts["call"]["title"] == "the picture picture.png"
    np.testing.assert_array_equal(facts["x"][0], pixels.transpose(2, 0, 1))
    assert cli.main(["explain", "--image", str(tmp_path / "picture.png"), "--w", "4,1,1,1", "--groups", "3"]) == 2
    assert "w has 4 filters, which 3 groups do not divide" in capsys.readouterr().err
    assert cli.main(["explain", "--image", str(tmp_path / "picture.png"), "--groups", "3", "--kernel", "1", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["w"] == [[1], [1], [1]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--x", "1,2"], "--w has 4 axes"),
        (["--w", "3,3,3,3"], "--w has 3 input channels x 1 groups = 3, but --x has 2"),
        (["--x", "1,2,a"], "is not a list of integers"),
        (["--pad", "some"], "is not a list of integers"),
        (["--pad", "1,1,1,1"], "write ((top, bottom), (left, right))"),
        (["--stride", "0"], "stride is 0"),
        (["--at", "0,0,0"], "must be (n, f, a, b)"),
        (["--at", "0,3,0,0"], "at[1] is 3, but y has only 3 filters"),
        (["--at", "0,0,-1,0"], "at[2] is -1"),
        (["--x", "0,2,5,5"], "no images"),
        (["--format", "png"], "needs --out"),
        (["--format", "gif"], "invalid choice"),
        (["--out", "explanation.gif"], "must end in .txt, .html, .png, .json"),
        (["--out", "no/such/folder/x.txt"], "No such file"),
        (["--dtype", "uint8"], "must hold the values that are made up, -9 to 99"),
        (["--dtype", "complex64"], "not complex ones"),
        (["--dtype", "sort of"], "dtype must be a NumPy dtype"),
        (["--kernel", "3"], "--kernel goes with --image"),
        (["--image", "mnist:-1"], "must be mnist:K"),
        (["--image", "mnist:3"], "there are only 3 training images"),
        (["--image", "mnist:0", "--x", "1,1,28,28"], "--x and --image"),
        (["--image", "mnist:0", "--w", "1,1,3,3", "--kernel", "3"], "--w and --kernel"),
        (["--image", "mnist:0", "--kernel", "0"], "--kernel is 0"),
        (["--image", "mnist:0", "--kernel", "29"], "the kernel spans 29"),
        (["--image", "mnist:0", "--dtype", "int8"], "does not hold the numbers of an image"),
        (["--image", "no-such-picture.png"], "No such file"),
        (["--image", __file__], "cannot identify image file"),
    ],
)
def test_mistakes_end_with_2_and_a_line(arguments, message, capsys, digits_of_mnist):
    try:
        code = cli.main(["explain", *arguments])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_bad_arguments():
    x, w = (1, 2, 5, 5), (3, 2, 3, 3)
    for call, kind, message in (
        (lambda: explain(x, w, groups=2), ValueError, "w has 2 input channels x 2 groups = 4, but x has 2"),
        (lambda: explain(x, w, stride=np.ones(3)), (TypeError, ValueError), "bias"),
        (lambda: explain((1, 2, 2, 2), w), ValueError, "the kernel spans 3"),
        (lambda: explain((1, 2.0, 5, 5), w), TypeError, r"x\[1\] must be an integer, not 2.0"),
        (lambda: explain((1, -2, 5, 5), w), ValueError, r"x\[1\] is -2"),
        (lambda: explain(np.ones((1, 2, 5, 5), complex), w), TypeError, "x has dtype complex128"),
        (lambda: explain(x, np.ones((3, 2, 3, 3), "U1")), TypeError, "w has dtype <U1"),
        (lambda: explain(None, w), TypeError, "x has dtype object"),
        (lambda: explain(np.ma.masked_array(np.ones(x)), w), TypeError, "MaskedArray"),
        (lambda: explain(x, w, at=5), TypeError, "at must be a tuple"),
        (lambda: explain(x, w, at=(0, 0, 0, 3)), ValueError, r"at\[3\] is 3, but y has only 3 columns"),
        (lambda: explain(x, w, at=(0, 0, 0, True)), TypeError, r"at\[3\] must be an integer"),
        (lambda: explain(x, w, layout="nchw"), ValueError, "layout is 'nchw'"),
        (lambda: explain(x, w, dtype="bool"), ValueError, "dtype is bool"),
        (lambda: explain(x, w, dtype=object), TypeError, "x has dtype object"),
        (lambda: explain((1, 1, 3000, 3000), (1, 1, 2999, 2999)), ValueError, "more than 4,194,304 elements"),
        (lambda: explain((1, 1, 2**23, 1), (1, 1, 1, 1)), ValueError, "too large to explain"),
        (lambda: explain((2**30, 2**30, 2**30, 1), (1, 2**30, 1, 1)), ValueError, "more elements than fit into memory"),
        (lambda: explain(x, w).index(9, 0), ValueError, "p is 9"),
        (lambda: explain(x, w).index(0, 0.5), TypeError, "q must be an integer"),
        (lambda: explain(x, w).readers(0, 2, 0, 0), ValueError, "c is 2"),
    ):  # fmt: skip
        with pytest.raises(kind, match=message):
            call()
