"""Checkpoint files: the round trip, damage of every kind, files made to do harm, writes that fail half-way."""

import errno
import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from forgery import FACTS_MEMBER, forge, lying, npy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from im2colx import nn
from im2colx.nn import checkpoint

ARRAYS = {"0.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "0.bias": np.array([np.nan, -0.0])}
FACTS = {"epoch": 3, "history": [0.1, None], "name": "ε"}


@pytest.fixture
def path(tmp_path):
    """A good checkpoint of ARRAYS and FACTS."""
    path = tmp_path / "model.npz"
    nn.save_checkpoint(path, ARRAYS, FACTS)
    return path


def assert_holds(path, arrays=ARRAYS, facts=FACTS):
    found, found_facts = nn.load_checkpoint(path)
    assert found_facts == facts and list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(lambda name: name != "facts")
DTYPES = st.one_of(npst.floating_dtypes(endianness="?"), npst.integer_dtypes(endianness="?"), npst.boolean_dtypes())


@settings(deadline=None)
@given(arrays=st.dictionaries(NAMES, npst.arrays(DTYPES, npst.array_shapes(min_dims=0, min_side=0)), max_size=3))
def test_round_trip(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("round") / "a.npz"
    nn.save_checkpoint(path, arrays, FACTS)
    assert_holds(path, arrays)


def test_numpy_can_read_it_and_equal_contents_give_equal_files(path, tmp_path):
    with np.load(path, allow_pickle=False) as archive:
        assert sorted(archive) == ["0.bias", "0.weight", "facts"]
        assert json.loads(archive["facts"].tobytes()) == FACTS
        assert np.array_equal(archive["0.weight"], ARRAYS["0.weight"])
    with zipfile.ZipFile(path) as archive:  # no clock in the file
        assert {member.date_time[0] for member in archive.infolist()} == {1980}
    nn.save_checkpoint(tmp_path / "again.npz", ARRAYS, FACTS)
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()


def test_views_and_other_orders_are_stored_as_they_read(tmp_path):
    array = np.arange(24).reshape(4, 6)
    nn.save_checkpoint(tmp_path / "a.npz", {"t": array.T, "step": array[::2, ::-1]}, {})
    found, _ = nn.load_checkpoint(tmp_path / "a.npz")
    assert np.array_equal(found["t"], array.T) and np.array_equal(found["step"], array[::2, ::-1])


def test_every_cut_is_noticed(path):
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=rf"model.npz \({length} bytes\) does not end as a checkpoint"):
            nn.load_checkpoint(path)


def test_every_flipped_bit_is_noticed(path):
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"does not end as a checkpoint does|is damaged"):
            nn.load_checkpoint(path)


def test_bytes_that_are_added_are_noticed(path):
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="does not end as a checkpoint"):
        nn.load_checkpoint(path)


def test_the_message_shows_both_digests(path):
    data = bytearray(path.read_bytes())
    recorded = data[-64:].decode()
    data[100] ^= 1
    path.write_bytes(data)
    found = hashlib.sha256(data[:-64]).hexdigest()
    with pytest.raises(ValueError, match=f"its SHA-256 is {found}, but when written it was {recorded}"):
        nn.load_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"epoch,loss\n", b"\0" * 1000, npy(np.ones(3)), pickle.dumps({"a": 1})])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "other.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"other.npz \({len(content)} bytes\) does not end as a checkpoint"):
        nn.load_checkpoint(path)


def test_a_plain_npz_a_folder_a_pipe_and_nothing_are_refused(tmp_path):
    np.savez(tmp_path / "plain.npz", a=np.ones(3))
    with pytest.raises(ValueError, match=r"plain.npz .* does not end as a checkpoint"):
        nn.load_checkpoint(tmp_path / "plain.npz")
    with pytest.raises(ValueError, match="is not a regular file"):
        nn.load_checkpoint(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ValueError, match="is not a regular file"):
            nn.load_checkpoint(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        nn.load_checkpoint(tmp_path / "none.npz")


class Payload:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_a_pickle_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objects = np.empty(1, object)
    objects[0] = Payload()
    for members in (
        {"a.npy": npy(objects), "facts.npy": FACTS_MEMBER},
        {"a.npy": pickle.dumps(Payload()), "facts.npy": FACTS_MEMBER},
        {"facts.npy": npy(objects)},
    ):
        forge(tmp_path / "evil.npz", members)
        with pytest.raises(ValueError, match=r"evil.npz is not a checkpoint"):
            nn.load_checkpoint(tmp_path / "evil.npz")
    assert os.listdir(tmp_path) == ["evil.npz"]


def test_names_with_dots_reach_no_other_folder(tmp_path):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "evil.npz"
    forge(path, {"../out.npy": npy(np.ones(3)), "/tmp/../out2.npy": npy(np.ones(2)), "facts.npy": FACTS_MEMBER})
    arrays, _ = nn.load_checkpoint(path)
    assert sorted(arrays) == ["../out", "/tmp/../out2"]
    assert os.listdir(tmp_path) == ["in"] and os.listdir(tmp_path / "in") == ["evil.npz"]


@pytest.mark.parametrize(("member", "content"), [
    ("facts.npy", npy(np.frombuffer(b"{", np.uint8))),
    ("facts.npy", npy(np.frombuffer(b"[1]", np.uint8))),
    ("facts.npy", npy(np.frombuffer(b"[" * 100000, np.uint8))),
    ("a.npy", b"text"),
    ("a.npy", npy(np.ones(3))[:-1]),
    ("a.npy", lying("{'descr': '<f8', 'fortran_order': False, 'shape': (9,)}")),
    ("a.npy", lying("{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,)}")),
    ("a.npy", lying("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}")),
    ("a.npy", lying("{'descr': '<f8', 'fortran_order': False, 'shape': (1,)" + " " * 60000 + "}")),
])
def test_forged_members_are_refused(tmp_path, member, content):
    forge(tmp_path / "evil.npz", {"facts.npy": FACTS_MEMBER} | {member: content})
    with pytest.raises(ValueError, match=r"evil.npz is not a checkpoint: "):
        nn.load_checkpoint(tmp_path / "evil.npz")


def test_a_file_without_facts_is_refused(tmp_path):
    forge(tmp_path / "evil.npz", {"a.npy": npy(np.ones(3))})
    with pytest.raises(ValueError, match=r"evil.npz is not a checkpoint: .*no member 'facts.npy', only \['a'\]"):
        nn.load_checkpoint(tmp_path / "evil.npz")


def test_a_compressed_bomb_is_refused(tmp_path):
    forge(tmp_path / "evil.npz", {"facts.npy": npy(np.zeros(10**6, np.uint8))}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"member 'facts.npy' is compressed"):
        nn.load_checkpoint(tmp_path / "evil.npz")


@pytest.mark.parametrize(("arrays", "facts", "error"), [
    ({"a": np.array([None])}, {}, TypeError),
    ({"a": np.zeros(1, [("x", object)])}, {}, TypeError),
    ({"facts": np.ones(1)}, {}, ValueError),
    ({3: np.ones(1)}, {}, ValueError),
    ({}, {"loss": float("nan")}, ValueError),
    ({}, {"a": np.ones(1)}, TypeError),
])
def test_what_cannot_be_stored_is_refused_and_the_old_file_stays(path, arrays, facts, error):
    with pytest.raises(error):
        nn.save_checkpoint(path, arrays, facts)
    assert_holds(path)


class FullDisk:
    """A file whose disk is full after `room` bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_full_disk_at_any_byte_leaves_the_old_file(path, monkeypatch):
    size = path.stat().st_size
    replacing = checkpoint.replacing
    for room in [*range(0, size, 7), size - 1]:
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "replacing", lambda *paths: Wrapped(replacing(*paths), room))  # noqa: B023
            with pytest.raises(OSError, match="No space left"):
                nn.save_checkpoint(path, {"0.weight": np.ones((2, 3), np.float32), "0.bias": np.ones(2)}, FACTS)
        assert_holds(path)
        assert os.listdir(path.parent) == ["model.npz"]


class Wrapped:
    """The context of `replacing`, with its file on a full disk."""

    def __init__(self, context, room):
        self.context, self.room = context, room

    def __enter__(self):
        return FullDisk(self.context.__enter__(), self.room)

    def __exit__(self, *error):
        return self.context.__exit__(*error)


KILLED = """
import os, signal, sys
import numpy as np
from im2colx import nn
from im2colx.nn import checkpoint

write = np.lib.format.write_array
def write_half_and_die(member, array, **options):
    if array.dtype != np.uint8:
        member.write(b"half of it")
        member._fileobj.flush() if hasattr(member, "_fileobj") else None
        os.kill(os.getpid(), signal.SIGKILL)
    write(member, array, **options)
np.lib.format.write_array = write_half_and_die
nn.save_checkpoint(sys.argv[1], {"w": np.ones(3)}, {})
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file(path):
    child = subprocess.run([sys.executable, "-c", KILLED, str(path)], capture_output=True, timeout=60)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    assert len(os.listdir(path.parent)) == 2  # it was killed while its temporary file was there
    assert_holds(path)


def numbered(path, number):
    nn.save_checkpoint(path, {"a": np.full(3, number)}, {"number": number}, previous=checkpoint.previous(path))


def number_in(path):
    return nn.load_checkpoint(path)[1]["number"]


def no_links(*_, **__):
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_the_file_that_is_replaced_stays_beside_it(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "a.npz"
    for number in range(4):
        numbered(path, number)
        names = ["a.npz", "a.npz.previous"] if number else ["a.npz"]
        assert sorted(os.listdir(tmp_path)) == names
        assert [number_in(tmp_path / name) for name in names] == [number, number - 1][: len(names)]
    nn.save_checkpoint(path, ARRAYS, FACTS)  # without a name for it, it ends
    assert number_in(checkpoint.previous(path)) == 2


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("fatal", [1, 2, 3])
def test_a_kill_between_the_renames_leaves_a_good_file(tmp_path, monkeypatch, links, fatal):
    path = tmp_path / "a.npz"
    numbered(path, 1)
    numbered(path, 2)

    class Killed(BaseException):
        """Nothing after it may help."""

    calls = []

    def dies(call):
        def replacement(*args, **named):
            calls.append(call.__name__)
            if len(calls) >= fatal and (calls[0] == "link" or not links):
                raise Killed
            return call(*args, **named)

        return replacement

    with monkeypatch.context() as patch:
        for name in ("link", "replace", "unlink"):
            patch.setattr(os, name, dies(getattr(os, name)))
        if not links:
            patch.setattr(os, "link", no_links)
        try:
            numbered(path, 3)
        except Killed:
            pass
    assert len(calls) >= min(fatal, 2) and calls[0] == ("link" if links else "replace")
    if path.exists():
        assert number_in(path) in (2, 3)
    else:
        assert not links and number_in(checkpoint.previous(path)) == 2
    left = {name for name in os.listdir(tmp_path) if name.endswith(".tmp")}
    numbered(path, 4)  # and what is left over is in nobody's way
    assert {name for name in os.listdir(tmp_path) if name.endswith(".tmp")} == left
    assert number_in(path) == 4 and number_in(checkpoint.previous(path)) in (2, 3)


def test_the_last_good_one(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(FileNotFoundError, match=r"a\.npz'"):
        checkpoint.load_last_good(path)
    numbered(path, 1)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="does not end as a checkpoint does"):
        checkpoint.load_last_good(path)
    checkpoint.previous(path).write_bytes(b"not good either")
    with pytest.raises(ValueError, match=r"a\.npz \("):
        checkpoint.load_last_good(path)
    numbered(path, 2)
    numbered(path, 3)
    assert checkpoint.load_last_good(path)[1:] == ({"number": 3}, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(RuntimeWarning, match=r"a.npz .* does not end .*; going on from the checkpoint before it"):
        arrays, facts, found = checkpoint.load_last_good(path)
    assert (arrays["a"][0], facts, found) == (2, {"number": 2}, checkpoint.previous(path))


def test_a_symbolic_link_at_the_target_is_replaced_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    target = tmp_path / "model.npz"
    target.symlink_to(victim)
    nn.save_checkpoint(target, ARRAYS, FACTS)
    assert victim.read_text() == "precious" and not target.is_symlink()
    assert_holds(target)
