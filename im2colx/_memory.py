"""How much memory this process can ever have, and the refusal of what cannot fit into it."""

import contextlib
import os
import resource
from pathlib import Path

from im2colx._methods import MOST_BYTES
from im2colx._threads import control_groups


def most_memory():
    """Bytes of the machine's memory, or of this process's share of it: a control group or RLIMIT_AS may grant less."""
    limits = [MOST_BYTES, *filter(None, map(_limit_of, control_groups("memory")))]
    with contextlib.suppress(ValueError, OSError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    granted, _ = resource.getrlimit(resource.RLIMIT_AS)
    if granted != resource.RLIM_INFINITY:
        limits.append(granted)
    return min(limits)


def _limit_of(folder: Path):
    """Bytes that a control group grants, of version 2 or 1; None if it sets no limit."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
            return int((folder / name).read_text())
    return None


@contextlib.contextmanager
def room_for(what, sizes, format):
    """A block that makes something in one of several formats; if there is no room, the error names those that fit.

    Parameters
    ----------
    what : str
        What is made.
    sizes : dict
        format → bytes, in the order in which they are recommended.
    format : str
        That in which it is made.

    Raises
    ------
    MemoryError
        At once if it is larger than all memory, or when the block runs out of it.
    """
    limit = most_memory()
    others = [f"format={name!r} takes {size:,}" for name, size in sizes.items() if size <= limit and size < sizes[format]]
    message = f"{what} takes {sizes[format]:,} bytes as format={format!r}, and this process can have at most {limit:,}"
    message += "".join(f"; {other}" for other in others[:1])
    if sizes[format] > limit:
        raise MemoryError(message)
    try:
        yield
    except MemoryError as error:
        raise MemoryError(message) from error
