"""What a selection of rows and columns of Φ selects, as NumPy would read it."""

import operator

import numpy as np

from im2colx._geometry import is_from_signal, shown

# Entries, or pixels, between two looks for Ctrl-C: some 10 ms.
AT_ONCE = 1 << 18


def position(value, size, name):
    """An integer index, counted from the end if negative."""
    try:
        number = operator.index(value)
    except Exception as error:
        if is_from_signal(error):
            raise
        raise TypeError(f"{name} must be an integer, not {shown(value)}") from error
    if not -size <= number < size:
        raise IndexError(f"{name} is {number}, but Φ has only {size} {'rows' if name == 'p' else 'columns'}")
    return number % size


def two_keys(key):
    """The selections of rows and of columns."""
    if isinstance(key, tuple) and len(key) > 3:
        raise IndexError(f"Φ has two axes, but {len(key)} selections were given")
    keys = list(key) if isinstance(key, tuple) else [key]
    dots = [at for at, part in enumerate(keys) if part is Ellipsis]
    if len(dots) == 1:
        keys[dots[0] : dots[0] + 1] = [slice(None)] * (3 - len(keys))
    if len(dots) > 1 or len(keys) > 2:
        raise IndexError(f"Φ has two axes, but {shown(key)} selects along more")
    return keys + [slice(None)] * (2 - len(keys))


def positions(key, size, name):
    """The positions that an integer, slice, integer array or mask selects: an array; of a slice, a range.

    Those of an array may count from the end; `counted` makes them count from the start.
    """
    if isinstance(key, slice):
        return range(*key.indices(size))
    if isinstance(key, (bool, np.bool_)):
        raise IndexError(f"{name} must be integers, a slice or a mask of {size}, not {key}")
    if not isinstance(key, (np.ndarray, list)) or isinstance(key, np.ndarray) and key.ndim == 0:
        return np.asarray(position(key, size, name))
    key = np.asarray(key)
    if key.dtype == bool and key.shape == (size,):
        return np.flatnonzero(key)
    if key.ndim != 1 or key.size and key.dtype.kind not in "iu":
        raise IndexError(f"{name} must be integers, a slice or a mask of {size}, not {shown(key)}")
    if key.size and not (-size <= key.min() and key.max() < size):
        raise IndexError(f"{name} holds {key.min()} to {key.max()}, but Φ has only {size} {'rows' if name == 'p' else 'columns'}")
    return key


def length(selected):
    """How many `positions` has selected; None if one, by an integer."""
    return None if np.ndarray is type(selected) and selected.ndim == 0 else len(selected)


def counted(part, size):
    """A part of what `positions` gives, counted from the start."""
    if isinstance(part, range):
        return np.arange(part.start, part.stop, part.step)
    return part.astype(np.intp) % max(size, 1)


def pieces(count, most):
    """Slices of at most `most` (at least one) that cover 0 to `count`.  Between two of them Python looks for Ctrl-C."""
    step = max(1, most)
    return (slice(begin, min(begin + step, count)) for begin in range(0, count, step))
