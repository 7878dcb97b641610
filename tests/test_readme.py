"""README tells the truth: its examples run, its commands are two, and CI runs the second."""

import re
import subprocess
from pathlib import Path

import im2colx

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
    # .ci/run in a copy where the commands only say their names
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci/run").write_text((ROOT / ".ci/run").read_text())
    spoken = README.replace(commands[0], "echo the first").replace(commands[1], "echo the second")
    (tmp_path / "README.md").write_text(spoken, encoding="utf-8")
    ran = subprocess.run(["bash", tmp_path / ".ci/run"], capture_output=True, text=True, check=True, cwd="/")
    assert "\nthe second\n" in ran.stdout and "the first" not in ran.stdout.replace("echo the first", "")


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
    assert size < 700_000
