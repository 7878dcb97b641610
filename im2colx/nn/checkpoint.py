"""Checkpoints: arrays and facts in one file that is whole or refused.

The file is an .npz that `numpy.load` can read too: an uncompressed zip archive with one .npy member per array, and one
more, ``facts.npy``, that holds JSON as bytes.  It ends in an archive comment::

    im2colx checkpoint 1, sha256 <64 hexadecimal digits>

The digest covers every byte of the file before those digits, so that a cut file or a single flipped bit is noticed
before anything is read from it.  There is no pickle inside and nothing is ever extracted to the disk, so a file from a
stranger can at worst hold wrong numbers.
"""

import errno
import hashlib
import json
import math
import os
import struct
import tokenize
import warnings
import zipfile
from pathlib import Path

import numpy as np

from im2colx._files import naming, replacing

MARK = b"im2colx checkpoint 1, sha256 "
DIGITS = 64

# What zipfile, NumPy and json raise on an archive or array that was forged.  Not among them: OSError and MemoryError, which say
# nothing about the file, and whatever a signal handler of the caller may raise meanwhile.
_FORGED = (
    zipfile.BadZipFile, ValueError, TypeError, EOFError, LookupError, AttributeError, OverflowError, NotImplementedError,
    RecursionError, SyntaxError, tokenize.TokenError, struct.error,
)  # fmt: skip


def save_checkpoint(path, arrays, facts, *, previous=None):
    """Write arrays and facts to a file that appears whole or not at all.

    A write that fails or is killed leaves the file that was there before.

    Parameters
    ----------
    path : path-like
        The file to create or replace (a symbolic link is replaced, not followed).  Its folder must exist.
    arrays : dict of str to ndarray
        Any shapes; any dtypes but object.
    facts : dict
        Whatever JSON can hold: str, int, finite float, bool, None, and lists and dicts of these.
    previous : path-like, optional
        A name in the same folder for the file that is replaced, which otherwise ends.  Then there is always one more
        good file, should the disk lose what it had acknowledged.

    Raises
    ------
    TypeError, ValueError
        If something cannot be stored so.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import os, tempfile
    >>> from im2colx import nn
    >>> model = nn.Sequential([nn.Dense(3)], input_shape=(2,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.npz")
    ...     nn.save_checkpoint(path, dict(model.parameters()), {"trained": False})
    ...     arrays, facts = nn.load_checkpoint(path)
    >>> list(arrays), facts
    (['0.weight', '0.bias'], {'trained': False})
    """
    members = {"facts": np.frombuffer(json.dumps(facts, allow_nan=False).encode(), np.uint8)}
    for name, array in arrays.items():
        if not isinstance(name, str) or name == "facts":
            raise ValueError(f"an array must be named by a str other than 'facts', but one is named {name!r}")
        members[name] = np.asarray(array)
        if members[name].dtype.hasobject:
            raise TypeError(f"array {name!r} holds Python objects, which a checkpoint cannot store")

    with replacing(path, previous) as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, array in members.items():
                # A ZipInfo is dated 1980 whatever the clock says: equal contents give equal files.
                with archive.open(zipfile.ZipInfo(name + ".npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
            archive.comment = MARK + b"0" * DIGITS
        # The archive is written with seeks back and forth, so its digest needs a second walk.
        length = file.seek(0, os.SEEK_END) - DIGITS
        digest = _sha256(file, length)
        file.seek(length)
        file.write(digest)


def load_checkpoint(path):
    """Read a file of `save_checkpoint`.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    arrays : dict of str to ndarray
    facts : dict

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, cut off, or something else.
    OSError
        If it cannot be read.

    Notes
    -----
    What is loaded is never larger than the file, whoever made it.

    Examples
    --------
    See `save_checkpoint`.
    """
    path = Path(path)
    path.stat()  # FileNotFoundError if there is none
    if not path.is_file():  # opening a named pipe would wait for ever
        raise ValueError(f"{path} is not a regular file")
    with naming(path), open(path, "rb") as file:
        _verify(path, file)
        try:
            return _read(file)
        except (*_FORGED, OSError) as error:  # the digest fits, so this was made on purpose, or the disk has failed since
            _raise_if_of_the_disk(error)
            raise ValueError(f"{path} is not a checkpoint: {type(error).__name__}: {error}") from error


def previous(path):
    """Where `Trainer` keeps the checkpoint that was at `path` before the last one."""
    path = Path(path)
    return path.with_name(f"{path.name}.previous")


def load_last_good(path):
    """Read the checkpoint at `path` or, if that cannot be had, the one that was there before, with a RuntimeWarning.

    Returns
    -------
    arrays, facts : dict
        As from `load_checkpoint`.
    found : pathlib.Path
        The file that they are from.

    Raises
    ------
    OSError, ValueError
        As `load_checkpoint` for `path`, if neither is good.
    """
    try:
        return *load_checkpoint(path), Path(path)
    except (OSError, ValueError) as error:
        try:
            found = load_checkpoint(previous(path))
        except (OSError, ValueError):
            raise error from None
        warnings.warn(f"{error}; going on from the checkpoint before it", RuntimeWarning, stacklevel=3)
        return *found, previous(path)


def _raise_if_of_the_disk(error):
    """Raise the OSError that an error is, or was made of, as zipfile makes its own of one."""
    while error is not None:
        # A seek to before the file is the forger's; so is what is a ValueError too.
        if isinstance(error, OSError) and not isinstance(error, ValueError) and error.errno != errno.EINVAL:
            raise error
        error = error.__context__


def _verify(path, file):
    """Raise ValueError unless the file ends in its mark and the digest of what stands before."""
    size = file.seek(0, os.SEEK_END)
    length = size - DIGITS
    file.seek(max(0, length - len(MARK)))
    if file.read(len(MARK)) != MARK or length < 0:
        raise ValueError(f"{path} ({size} bytes) does not end as a checkpoint does:"
                         " it is cut off, or another kind of file")
    recorded = file.read()
    found = _sha256(file, length)
    if found != recorded:
        raise ValueError(f"{path} ({size} bytes) is damaged: its SHA-256 is {found.decode()}, but when written it was"
                         f" {recorded.decode('ascii', 'replace')}")


def _sha256(file, length):
    """SHA-256 of the first `length` bytes of the file, as ASCII digits."""
    digest = hashlib.sha256()
    file.seek(0)
    while length > 0:
        block = file.read(min(length, 1 << 20))
        if not block:
            raise EOFError(f"the file became {length} bytes shorter while it was read")
        digest.update(block)
        length -= len(block)
    return digest.hexdigest().encode()


def _read(file):
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        _check_members(archive, file.seek(0, os.SEEK_END))
        for member in archive.infolist():
            with archive.open(member) as stream:
                _check_array(stream, member)
                arrays[member.filename.removesuffix(".npy")] = np.lib.format.read_array(stream, allow_pickle=False)
    if "facts" not in arrays:
        raise ValueError(f"it has no member 'facts.npy', only {sorted(arrays)}")
    facts = json.loads(arrays.pop("facts").tobytes())
    if not isinstance(facts, dict):
        raise ValueError(f"its facts are of type {type(facts).__name__}, not a dict")
    return arrays, facts


def _check_members(archive, size):
    """Raise ValueError for what `save_checkpoint` never writes, and what would make more of a file than its bytes."""
    names, total = set(), 0
    for member in archive.infolist():
        if member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"member {member.filename!r} is compressed")
        if member.flag_bits & 1:
            raise ValueError(f"member {member.filename!r} is encrypted")
        if member.filename in names:
            raise ValueError(f"two members are named {member.filename!r}")
        names.add(member.filename)
        # Stored as they are, and each byte in one member only: then all together are smaller than the file.
        total += max(member.file_size, member.compress_size)
    if total > size:
        raise ValueError(f"its members overlap: they have {total} bytes together, but the file has {size}")


def _check_array(stream, member):
    """Raise ValueError if the array that the member declares is not as large as the member: NumPy would make room for it first."""
    version = np.lib.format.read_magic(stream)
    # Version 3 is version 2 in UTF-8: names of fields are misread here, sizes are not.
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    declared, held = math.prod(shape) * dtype.itemsize, member.file_size - stream.tell()
    if declared != held:
        raise ValueError(f"member {member.filename!r} declares {dtype} of shape {shape}, {declared} bytes, but holds {held}")
    stream.seek(0)
