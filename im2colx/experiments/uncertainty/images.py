"""What the networks are shown: digits turned by an angle, and images that are no digits.  All (n, 28, 28), 0 to 1."""

from pathlib import Path

import numpy as np
import scipy.ndimage

from .. import _drawing
from .methods import SIDE

ANGLES = tuple(range(0, 181, 15))  # degrees

# Capital letters that are not drawn like a digit (B D G I O Q S Z are, or nearly), in fonts that matplotlib brings.
LETTERS = "ACEFHJKLMNPRTUVWXY"
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono",
         "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "cmr10")

TILE = 7  # pixels along one side of a piece of the jigsaw


def rotated(images, angle):
    """Turn images about their centre by an angle in degrees, counterclockwise, with linear interpolation."""
    if angle == 0:
        return images
    turned = scipy.ndimage.rotate(images, angle, axes=(1, 2), reshape=False, order=1)
    return np.clip(turned, 0, 1, out=turned)


def foreign(images, seed):
    """Images that are no digits, as many as there are digits in `images`.

    Returns
    -------
    dict
        "letters": capital letters, printed, slightly slanted and turned; "jigsaw": the digits cut into 16 tiles that
        change places; "noise": uniform noise.
    """
    rng = np.random.default_rng([seed, 1])
    return {
        "letters": np.stack([_letter(rng) for _ in images]),
        "jigsaw": np.stack([_jigsaw(image, rng) for image in images]),
        "noise": rng.random(images.shape, np.float32),
    }


def _jigsaw(image, rng):
    count = SIDE // TILE
    tiles = image.reshape(count, TILE, count, TILE).swapaxes(1, 2).reshape(-1, TILE, TILE)
    return rng.permutation(tiles).reshape(count, count, TILE, TILE).swapaxes(1, 2).reshape(SIDE, SIDE)


def _letter(rng):
    """Draw one letter as MNIST has its digits: white on black, 20 pixels high or wide, in the middle of 28."""
    matplotlib = _drawing.require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from matplotlib.patches import PathPatch
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    font = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{FONTS[rng.integers(len(FONTS))]}.ttf")
    letter = LETTERS[rng.integers(len(LETTERS))]
    path = TextPath((0, 0), letter, size=20, prop=FontProperties(fname=font))
    path = path.transformed(Affine2D().skew_deg(rng.uniform(-10, 10), 0).rotate_deg(rng.uniform(-10, 10)))
    box = path.get_extents()
    fit = Affine2D().translate(-(box.x0 + box.x1) / 2, -(box.y0 + box.y1) / 2).scale(20 / max(box.width, box.height))
    figure = Figure(figsize=(1, 1), dpi=SIDE, facecolor="black")
    figure.add_artist(PathPatch(path.transformed(fit.translate(SIDE / 2, SIDE / 2)), transform=None, facecolor="white",
                                linewidth=0))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., 0] / np.float32(255)
