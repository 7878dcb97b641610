"""README tells the truth: its examples run, its commands are two, and CI runs the second."""

import json
import re
import subprocess
from pathlib import Path

import im2colx
from im2colx.experiments.verdict import AUTHORS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_examples_run():
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    names = {}
    for block in blocks:
        exec(block, names)
    assert names["y"].shape == (8, 16, 16, 16)
    assert names["grad_x"].shape == names["x"].shape and names["grad_w"].shape == names["w"].shape
    assert len(blocks[0].splitlines()) == 5


def test_quick_start_has_two_commands_and_ci_runs_the_second(tmp_path):
    quick_start = README.split("## Quick start")[1].split("\n## ")[0]
    commands = re.findall(r"^```sh\n(.*?)\n```", quick_start, re.MULTILINE | re.DOTALL)
    assert len(commands) == 2
    assert "experiment" in commands[0] and commands[1].endswith("pytest")
    # .ci/run in a copy where the commands only say their names, and so do those of the environment that the second one makes
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in ("pip", "python"):
        (tmp_path / ".venv/bin" / name).write_text(f'#!/bin/sh\necho "{name} $*"\n')
        (tmp_path / ".venv/bin" / name).chmod(0o755)
    (tmp_path / ".ci/run").write_text((ROOT / ".ci/run").read_text())
    spoken = README.replace(commands[0], "echo the first").replace(commands[1], "echo the second")
    (tmp_path / "README.md").write_text(spoken, encoding="utf-8")
    ran = subprocess.run(["bash", tmp_path / ".ci/run"], capture_output=True, text=True, check=True, cwd="/")
    assert "\nthe second\npip install -e .[checks]\npython checks/all.py --quick\n" in ran.stdout
    assert "the first" not in ran.stdout.replace("echo the first", "")


def test_every_method_is_described():
    for name in im2colx.methods()[1:]:
        assert f"| `{name}` |" in README


def test_no_file_is_generated_or_binary():
    if not (ROOT / ".git").exists():
        return
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert not [name for name in files if Path(name).suffix in (".so", ".o", ".gz", ".npz", ".pyc") or name.endswith(("_core.c", "_blas.c"))]


def test_the_package_is_small():
    size = sum(path.stat().st_size for path in (ROOT / "im2colx").rglob("*") if path.suffix in (".py", ".html"))
    assert size < 715_000


def test_the_study_s_numbers_are_those_of_its_files():
    study = ROOT / "docs" / "study"
    table = re.findall(r"^\| (SGD|Adam), (output|weight)s \| (\S+) \| (\S+) \| (\S+) \|$", (study / "README.md").read_text(), re.MULTILINE)
    assert len(table) == 4
    runs = [json.loads((folder / "metrics.json").read_text()) for folder in (study, study / "float32")]
    for optimizer, kind, *shown in table:
        numbers = [run[optimizer.lower()][f"{kind}_distance"] for run in runs]
        authors = AUTHORS[optimizer.lower()][("output", "weight").index(kind)]
        assert shown == [f"{number:.3g}" for number in (*numbers, authors)]
    for run, command in zip(runs, ["--sums float64", "--sums same"], strict=True):
        settings = run["settings"]
        assert command in settings["command"] and settings["epochs"] == 400 and "/" not in settings["command"].partition("docs/study")[0]
        assert settings["data"]["name"] == "the MNIST idx files" and settings["images"] == 1000
        assert f"{settings['machine']['cpu']}" in (study / "README.md").read_text()
