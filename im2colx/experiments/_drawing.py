"""How figures look: one style for a light and for a dark page, and the PNG that comes of it.

The colours are Okabe and Ito's, which people with colour-blindness can tell apart; what is drawn in them also differs in
another way, such as the kind of line.
"""

import contextlib
import io

import numpy as np

from im2colx._extras import require_matplotlib

WIDTH = 7.2  # inches
DPI = 180

LIGHT = {
    "page": "#ffffff", "ink": "#1c1e21", "soft": "#6b7280", "grid": "#e5e7eb", "box": "#f3f4f6",
    "train": "#0072b2", "val": "#d55e00", "cnn": "#56b4e9", "fc": "#1c1e21", "gap": "#7a4f9a",
    "green": "#009e73",
}
DARK = {
    "page": "#1a1c20", "ink": "#e8e8e6", "soft": "#a3a8b0", "grid": "#34383f", "box": "#262a30",
    "train": "#56b4e9", "val": "#e69f00", "cnn": "#0072b2", "fc": "#f4f4f2", "gap": "#cc9fd8",
    "green": "#009e73",
}


@contextlib.contextmanager
def canvas(colors, height):
    """Yield a Figure in our style (never through pyplot, which would choose a window system) and a PNG buffer."""
    matplotlib = require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style = {
        "font.family": "DejaVu Sans", "font.size": 10.5, "axes.titlesize": 12, "axes.titleweight": "bold",
        "axes.titlelocation": "left", "axes.titlepad": 9, "axes.spines.top": False, "axes.spines.right": False,
        "axes.edgecolor": colors["soft"], "axes.labelcolor": colors["ink"], "axes.titlecolor": colors["ink"],
        "axes.facecolor": colors["page"], "figure.facecolor": colors["page"], "savefig.facecolor": colors["page"],
        "text.color": colors["ink"], "xtick.color": colors["soft"], "ytick.color": colors["soft"],
        "xtick.labelcolor": colors["ink"], "ytick.labelcolor": colors["ink"],
        "axes.grid": True, "axes.axisbelow": True, "grid.color": colors["grid"], "grid.linewidth": 0.8,
        "legend.frameon": False, "axes.formatter.use_mathtext": True,
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
        FigureCanvasAgg(figure)
        png = io.BytesIO()
        yield figure, png
        figure.savefig(png, format="png", dpi=DPI)
        _shrink(png)


def _shrink(png):
    """Write the picture anew in 64 colours: a third of the size, and no difference to be seen.

    The colours that most pixels have stay as they are, so a surface is exactly of the page's colour; the others, on the
    edges of letters and lines, become the nearest of these.
    """
    from PIL import Image  # matplotlib needs it too

    with Image.open(png) as image:
        pixels = np.asarray(image.convert("RGB"))
    codes, inverse, counts = np.unique(pixels @ [1 << 16, 1 << 8, 1], return_inverse=True, return_counts=True)
    colors = codes[:, np.newaxis] >> [16, 8, 0] & 255
    common = np.argsort(-counts, kind="stable")[:64]
    squares = ((colors[:, np.newaxis] - colors[common]) ** 2).sum(axis=2)
    small = Image.fromarray(squares.argmin(axis=1).astype(np.uint8)[inverse].reshape(pixels.shape[:2]), "P")
    small.putpalette(colors[common].astype(np.uint8).tobytes())
    png.seek(0)
    png.truncate()
    # Without the name and version of a library in it, the same run gives the same file.
    small.save(png, format="png", optimize=True)
