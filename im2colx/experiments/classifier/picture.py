"""A picture of one digit, as MNIST has its digits: light ink on black, 20 pixels large, its centre of mass in the middle."""

import numpy as np

from im2colx._extras import require_matplotlib

from .network import SIDE

BOX = 20  # pixels: the longer side of a digit
FAINT = 0.2  # of the darkest ink: what is less counts as paper


def read_picture(path):
    """Read a picture of one digit: of any size, dark ink on light paper or light on dark.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    ndarray of uint8, shape (28, 28)
        As `classify` takes it.

    Raises
    ------
    OSError, ValueError
        If the file cannot be read, is no picture, or shows nothing.
    ImportError
        Without Pillow, which the extra "experiment" brings.
    """
    require_matplotlib()  # which brings Pillow
    from PIL import Image

    with Image.open(path) as picture:  # what is transparent is put on white
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA")).convert("L")
    try:
        return like_mnist(picture)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def like_mnist(picture):
    """A grey picture of Pillow's in the form that MNIST's authors gave theirs."""
    from PIL import Image

    grey = np.asarray(picture, np.float64)
    paper = np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]]))  # the edge is paper
    ink = np.abs(grey - paper)
    darkest = ink.max()
    if darkest < 16:  # of 256: a shade that nobody sees
        raise ValueError(f"no digit in it: no pixel differs from the paper by more than {darkest:g} of 255")
    ink = np.where(ink < FAINT * darkest, 0, ink / darkest)
    rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, round(BOX * side / max(ink.shape))) for side in ink.shape)
    small = np.asarray(Image.fromarray((255 * ink).astype(np.uint8)).resize((width, height), Image.Resampling.BOX))
    image = np.zeros((SIDE, SIDE), np.uint8)
    top, left = (
        min(max(round(SIDE / 2 - np.average(np.arange(side), weights=small.sum(axis=1 - axis))), 0), SIDE - side)
        for axis, side in enumerate(small.shape)
    )
    image[top : top + height, left : left + width] = small
    return image
