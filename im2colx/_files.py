"""Files that appear whole or not at all.

A writer that is killed, or runs out of disk, must leave the old file as it was.  So the bytes go to a new
file beside the target (the same file system, hence an atomic rename), are flushed to the disk, and only then
take the target's name.  The temporary name is random and opened with ``O_EXCL``, so a file or symbolic link
planted under a guessed name is never followed; a symbolic link at the target is replaced, not written through.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import stat
import warnings
from pathlib import Path

LOCK = ".im2colx-running"


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

    Raises
    ------
    OSError
        If the file cannot be written; it names `path`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with naming(path, temporary):
        with _written(path, temporary, previous) as file:
            yield file


@contextlib.contextmanager
def naming(path, temporary=None):
    """Put `path` into an OSError that names no file, as those of read, write and fsync, or only the temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename2 is None and str(error.filename) in ("None", str(temporary)):
            error.filename = str(path)
        raise


@contextlib.contextmanager
def _written(path, temporary, previous):
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


@contextlib.contextmanager
def occupied(folder):
    """Keep other processes that ask for the same folder out of it while the block runs.

    The lock ends with the process that holds it, however that ends.  Its file stays after a kill; it holds nobody up.

    Parameters
    ----------
    folder : pathlib.Path
        It exists.

    Raises
    ------
    BlockingIOError
        If another process has the folder, or another part of this one; the message tells which process.
    OSError
        If nothing can be written there.
    """
    path = Path(folder) / LOCK
    descriptor = _lock(path)
    try:
        with naming(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
            os.fsync(descriptor)
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # before the lock is given up: afterwards the file may be another's
        os.close(descriptor)


def _lock(path):
    """Open and lock a file that nobody else has locked; return its descriptor."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:  # planted: writing to it would be writing elsewhere
                raise FileExistsError(errno.EEXIST, "is not a file of im2colx", str(path))
            _lock_descriptor(descriptor, path)
            # Its last holder may have removed it after it was opened here: then another may lock a new one.
            if os.path.exists(path) and os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock_descriptor(descriptor, path):
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        process = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
        raise BlockingIOError(
            errno.EWOULDBLOCK, f"another run, process {process}, is still writing into this folder", str(path.parent)
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
        warnings.warn(f"{path.parent}: no lock can be had ({error.strerror}), so a second run would not be noticed", stacklevel=5)


def check_room(folder, nbytes):
    """Raise OSError unless the disk of `folder` has so many bytes left."""
    free = shutil.disk_usage(folder).free
    if free < nbytes:
        raise OSError(
            errno.ENOSPC, f"no space left: {nbytes / 1e6:.4g} MB will be written, but {free / 1e6:.4g} MB are free", str(folder)
        )


def _keep(path, previous):
    """Give the file `path` the name `previous` as well."""
    second = previous.with_name(f".{previous.name}.{secrets.token_hex(8)}.tmp")
    try:
        os.link(path, second, follow_symlinks=False)
    except (OSError, NotImplementedError):
        # A file system without hard links: for a moment there is only `previous`, but never nothing.
        os.replace(path, previous)
    else:
        try:
            os.replace(second, previous)
        finally:
            # It is still there if that failed; and where both were one file already (a kill between these two renames),
            # as POSIX has rename do nothing then.
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
