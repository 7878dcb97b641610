"""The command line, as a person would use it."""

import json
import os
import subprocess
import sys

import pytest

import im2colx
from im2colx import _selftest, cli
from im2colx._methods import methods_for


def test_every_command_has_help(capsys):
    for command in ([], ["info"], ["selftest"], ["bench"], ["explain"], ["experiment"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main([*command, "--help"])
        assert stopped.value.code == 0
        assert "usage: im2colx" in capsys.readouterr().out


def test_info(capsys):
    assert cli.main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == im2colx.info()
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    assert "integer_bits" in text and im2colx.info()["compiler"] in text


def test_selftest(capsys, monkeypatch):
    # a type for every two geometries, in the order of _selftest
    dtypes = ("float32", "float64", "complex64", "complex128", "int8", "int64")
    passed = sum(2 * 3 * len(methods_for(dtype)) for dtype in dtypes)
    assert cli.main(["selftest", "--geometries", "12", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"passed": passed, "failures": []}
    right = _selftest.conv2d
    monkeypatch.setattr(_selftest, "conv2d", lambda x, w, *args, **named: right(x, w, *args, **named) + (named["method"] == "naive"))
    assert cli.main(["selftest", "--geometries", "3"]) == 1
    text = capsys.readouterr().out
    assert "FAILED conv2d, method naive" in text and "3 not" in text


def test_bench(capsys):
    assert cli.main(["bench", "--x", "1,2,6,6", "--w", "3,2,3,3", "--seconds", "0.01", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["y"] == [1, 3, 6, 6]
    assert set(facts["seconds"]) == {*im2colx.methods()[1:], "numpy"}
    assert cli.main(["bench", "--x", "1,4,6,6", "--w", "4,1,3,3", "--groups", "4", "--pad", "0", "--seconds", "0.01"]) == 0
    assert "numpy" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "--x", "1,2"], "--w has 4 axes"),
        (["bench", "--x", "1,2,a"], "is not a list of integers"),
        (["bench", "--w", "4,3,3,3"], "--w has 3 input channels"),
        (["bench", "--pad", "-1"], "pad is -1"),
        (["bench", "--threads", "0"], "not an integer of at least 1"),
        (["selftest", "--geometries", "0"], "not an integer of at least 1"),
        (["nonsense"], "invalid choice"),
        ([], "required"),
    ],
)
def test_mistakes_end_with_2_and_a_line(arguments, message, capsys):
    try:
        code = cli.main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_python_dash_m():
    result = subprocess.run([sys.executable, "-m", "im2colx", "--version"], capture_output=True, text=True)
    assert result.stdout.strip() == f"im2colx {im2colx.__version__}"


@pytest.mark.parametrize("words", [["info"], ["explain", "--x", "64,64", "--w", "9,9"]])
def test_a_reader_that_has_enough_is_no_error(words):
    command = [sys.executable, "-m", "im2colx", *words]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 0)
