"""A checkpoint from a stranger: wrong numbers at worst, never more memory than the file has bytes, and only ValueError."""

import errno
import hashlib
import io
import os
import warnings
import zipfile

import numpy as np
import pytest
from forgery import FACTS_MEMBER, forge, lying, overlapping

from im2colx import nn
from im2colx.nn import checkpoint


def test_members_that_overlap_are_refused(tmp_path):
    """120 kB that would be loaded as 6 MB; and a member that is listed twice."""
    path = tmp_path / "evil.npz"
    path.write_bytes(overlapping(1, b"{}"))
    assert nn.load_checkpoint(path) == ({}, {})  # the forger knows the trade
    path.write_bytes(overlapping(50, b"." * 100_000))
    assert path.stat().st_size < 120_000
    with pytest.raises(ValueError, match=r"its members overlap: they have [56]\d{6} bytes together, but the file has 1\d{5}"):
        nn.load_checkpoint(path)
    with warnings.catch_warnings(action="ignore"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("facts.npy", FACTS_MEMBER)
            archive.writestr("facts.npy", FACTS_MEMBER)
            archive.comment = checkpoint.MARK + b"0" * 64
    data = buffer.getvalue()[:-64]
    path.write_bytes(data + hashlib.sha256(data).hexdigest().encode())
    with pytest.raises(ValueError, match="two members are named 'facts.npy'"):
        nn.load_checkpoint(path)


@pytest.mark.parametrize(("count", "taken"), [(2**40, 0), (10**6, 0), (2, 0)])
def test_a_member_that_declares_more_than_it_holds_takes_no_memory(tmp_path, count, taken):
    forge(tmp_path / "evil.npz", {"facts.npy": FACTS_MEMBER, "a.npy": lying(
        f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({count},)}}")})
    with pytest.raises(ValueError, match=rf"'a.npy' declares float64 of shape \({count},\), {8 * count} bytes, but holds {taken}"):
        nn.load_checkpoint(tmp_path / "evil.npz")


def test_changed_at_random_and_signed_again(tmp_path):
    """Whatever a forger changes: ValueError, or arrays that are no larger than the file."""
    path = tmp_path / "a.npz"
    nn.save_checkpoint(path, {"w": np.arange(6.0).reshape(2, 3), "b": np.ones(2, "f4")}, {"epoch": 3})
    good, rng = path.read_bytes()[:-64], np.random.default_rng(4)
    refused = 0
    for _ in range(1500):
        data = bytearray(good)
        for at in rng.integers(len(data) - len(checkpoint.MARK), size=rng.integers(1, 4)):
            data[at] = rng.integers(256)
        path.write_bytes(bytes(data) + hashlib.sha256(data).hexdigest().encode())
        try:
            arrays, _ = nn.load_checkpoint(path)
        except ValueError:
            refused += 1
        else:
            assert sum(array.nbytes for array in arrays.values()) < len(data)
    assert 500 < refused < 1500


def test_a_disk_that_fails_is_not_the_files_fault(tmp_path, monkeypatch):
    """zipfile tells an error of its first reads as a file that is no archive."""

    def fail(*args):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = tmp_path / "a.npz"
    nn.save_checkpoint(path, {}, {})
    monkeypatch.setattr(zipfile, "_EndRecData", fail)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)) as caught:
        nn.load_checkpoint(path)
    assert caught.value.filename == str(path)


@pytest.mark.parametrize("error", [TimeoutError, MemoryError, RuntimeError, type("Alarm", (Exception,), {})])
def test_what_a_signal_handler_raises_is_not_the_files_fault(tmp_path, monkeypatch, error):
    def read_array(*args, **named):
        raise error("in the handler")

    path = tmp_path / "a.npz"
    nn.save_checkpoint(path, {}, {})
    monkeypatch.setattr(np.lib.format, "read_array", read_array)
    with pytest.raises(error, match="in the handler"):
        nn.load_checkpoint(path)
