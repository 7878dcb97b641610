"""Files that appear whole or not at all.

A writer that is killed, or runs out of disk, must leave the old file as it was.  So the bytes go to a new
file beside the target (the same file system, hence an atomic rename), are flushed to the disk, and only then
take the target's name.  The temporary name is random and opened with ``O_EXCL``, so a file or symbolic link
planted under a guessed name is never followed; a symbolic link at the target is replaced, not written through.
"""

import contextlib
import os
import secrets
from pathlib import Path


@contextlib.contextmanager
def replacing(path, previous=None):
    """Open a binary file that becomes `path` when the block ends without an exception.

    Parameters
    ----------
    path : path-like
        The file to create or replace.  Its folder must exist.
    previous : path-like, optional
        In the same folder: the name that the file which was `path` until then has afterwards.

    Yields
    ------
    file object
        Opened for writing bytes (and reading them back).  If the block raises, it is removed and `path` is as before.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and os.path.lexists(path):
            _keep(path, Path(previous))
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


def write_bytes(path, data):
    """Replace the file `path` by `data` (bytes, or a str that is encoded as UTF-8), whole or not at all."""
    with replacing(path) as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)


def _keep(path, previous):
    """Give the file `path` the name `previous` as well."""
    second = previous.with_name(f".{previous.name}.{secrets.token_hex(8)}.tmp")
    try:
        os.link(path, second, follow_symlinks=False)
    except (OSError, NotImplementedError):
        # A file system without hard links: for a moment there is only `previous`, but never nothing.
        os.replace(path, previous)
    else:
        os.replace(second, previous)
        # Where both were one file already (a kill between these two renames), POSIX has rename do nothing.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(second)


def _sync_folder(folder):
    # The rename itself is durable only once the folder is.  Windows cannot open a folder, and some network
    # file systems refuse fsync on one: there the file is still whole, only its name may be lost in a crash.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
