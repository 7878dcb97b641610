"""Files whole or not at all, errors that name them, and a folder that one run has to itself."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from im2colx import _files, cli, datasets, nn

STUDIES = ("", "classifier", "question", "uncertainty", "morphism")


@pytest.fixture(scope="module")
def digits():
    return datasets.load_mnist()


@pytest.fixture
def studies(digits, monkeypatch):
    """Everything that a study needs, found at once."""
    pytest.importorskip("matplotlib", reason="the studies need matplotlib (extra 'experiment')")
    monkeypatch.setattr(datasets, "load_mnist", lambda data: digits)


HOLDER = """
import sys, time
from pathlib import Path
from im2colx import _files
with _files.occupied(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def held(tmp_path):
    """A folder that another process holds, and the process."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield tmp_path, process
        process.kill()


def test_a_folder_is_one_processs_until_it_is_killed(held):
    folder, process = held
    with pytest.raises(BlockingIOError, match=rf"another run, process {process.pid}, is still .*: '{re.escape(str(folder))}'"):
        with _files.occupied(folder):
            pass
    assert os.listdir(folder) == [_files.LOCK]
    process.send_signal(signal.SIGKILL)
    process.wait()
    with _files.occupied(folder):
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()}"), _files.occupied(folder):
            pass
    assert os.listdir(folder) == []


@pytest.mark.parametrize("study", STUDIES)
def test_a_second_run_says_that_the_first_is_running(held, studies, capsys, study):
    """And touches nothing: not even the checkpoints that it would otherwise give up."""
    folder, process = held
    (folder / "checkpoints").mkdir()
    for name in ("settings.json", "sgd-cnn.npz", ".sgd-cnn.npz.0123456789abcdef.tmp"):
        (folder / "checkpoints" / name).write_text("the first run's")
    assert cli.main(["experiment", *study.split(), "--out", str(folder)]) == 2
    error = capsys.readouterr().err
    assert f"another run, process {process.pid}, is still writing into this folder: '{folder}'" in error
    assert error.count("\n") == 1
    assert len(os.listdir(folder / "checkpoints")) == 3


@pytest.mark.parametrize("plant", [os.symlink, os.link])
def test_a_planted_lock_is_not_written_to(tmp_path, plant):
    victim, folder = tmp_path / "victim", tmp_path / "out"
    victim.write_text("precious")
    folder.mkdir()
    plant(victim, folder / _files.LOCK)
    with pytest.raises(OSError, match=re.escape(str(folder / _files.LOCK))), _files.occupied(folder):
        pass
    assert victim.read_text() == "precious"


def test_a_lock_that_the_file_system_refuses_is_done_without(tmp_path, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(_files.fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="no lock can be had"), _files.occupied(tmp_path):
        assert os.listdir(tmp_path) == [_files.LOCK]
    assert os.listdir(tmp_path) == []


FULL = """
import resource, signal, sys
import numpy as np
from im2colx import _files, nn
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
try:
    if sys.argv[2] == "checkpoint":
        nn.save_checkpoint(sys.argv[1], {"a": np.ones(5000)}, {})
    else:
        _files.write_bytes(sys.argv[1], b"." * 20000)
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("kind", ["checkpoint", "bytes"])
def test_a_write_that_fails_names_the_file(tmp_path, kind):
    path = tmp_path / "a.npz"
    done = subprocess.run([sys.executable, "-c", FULL, path, kind], capture_output=True, text=True)
    assert done.stdout == f"[Errno {errno.EFBIG}] {os.strerror(errno.EFBIG)}: '{path}'\n", done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_every_error_names_the_file_and_not_the_temporary_one(tmp_path, monkeypatch, call):
    def fail(*args, **named):
        raise OSError(errno.EIO, os.strerror(errno.EIO), *(str(arg) for arg in args if call == "open" and arg is args[0]))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)) as caught:
        nn.save_checkpoint(tmp_path / "a.npz", {"a": np.ones(3)}, {})
    assert caught.value.filename == str(tmp_path / "a.npz")


def test_nothing_is_left_where_the_name_of_the_one_before_cannot_be_had(tmp_path, monkeypatch):
    nn.save_checkpoint(tmp_path / "a.npz", {}, {"number": 1})
    monkeypatch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(OSError(errno.EIO, os.strerror(errno.EIO), *names)))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        nn.save_checkpoint(tmp_path / "a.npz", {}, {"number": 2}, previous=tmp_path / "b.npz")
    assert os.listdir(tmp_path) == ["a.npz"] and nn.load_checkpoint(tmp_path / "a.npz")[1] == {"number": 1}


def test_errors_of_the_block_about_other_files_stay(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such source"), _files.replacing(tmp_path / "a"):
        open(tmp_path / "no such source")
    with pytest.raises(OSError, match="^plain$"), _files.replacing(tmp_path / "a"):
        raise OSError("plain")


def test_a_full_disk_is_found_before_the_training(tmp_path, studies, monkeypatch, capsys):
    """Seen by the room that the results and checkpoints are known to take."""
    free = 100_000
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(_files.shutil, "disk_usage", lambda folder: usage._replace(free=free))
    for study in STUDIES:
        assert cli.main(["experiment", *study.split(), "--out", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert f"no space left: 0.5 MB will be written, but 0.1 MB are free: '{tmp_path}'" in error
    free = 500_000_000
    (tmp_path / "checkpoints").mkdir()
    assert cli.main(["experiment", "--epochs", "1", "--out", str(tmp_path)]) == 2
    assert f"no space left: 542.8 MB will be written, but 500 MB are free: '{tmp_path / 'checkpoints'}'" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="names of files that are not UTF-8 are Linux's")
@pytest.mark.parametrize("study", STUDIES)
def test_a_folder_that_is_not_utf8_is_refused_before_the_training(tmp_path, studies, capsys, study):
    out = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    assert cli.main(["experiment", *study.split(), "--out", out]) == 2
    assert f"error: --out {tmp_path}/\\xff: the name is not UTF-8" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="names of files that are not UTF-8 are Linux's")
def test_explain_writes_to_a_name_that_is_not_utf8(tmp_path):
    out = os.fsencode(tmp_path) + b"/\xff.html"
    done = subprocess.run([sys.executable, "-m", "im2colx", "explain", "--out", out], capture_output=True)
    assert done.returncode == 0 and done.stdout == b"Wrote " + os.fsencode(tmp_path) + b"/?.html\n", done.stderr
    assert os.listdir(os.fsencode(tmp_path)) == [b"\xff.html"]
