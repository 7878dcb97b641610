"""The command line: ``python -m im2colx``, also installed as ``im2colx``."""

import argparse
import json
import os
import sys

import numpy as np

from im2colx._explain import _cli as explain
from im2colx._geometry import resolve
from im2colx._info import info
from im2colx._methods import METHODS
from im2colx._selftest import selftest
from im2colx._timing import interleaved, numpy_conv2d
from im2colx._version import __version__
from im2colx.conv import conv2d
from im2colx.experiments import _cli as experiment
from im2colx.experiments import studies


def integers(text):
    """An argument like 1,64,56,56."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of integers like 1,64,56,56") from None


def positive(text):
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least 1")
    return value


def run_info(args):
    facts = info()
    if args.json:
        print(json.dumps(facts, indent=2))
        return 0
    width = max(map(len, facts))
    for name, value in facts.items():
        if isinstance(value, dict):
            print(f"{name:{width}}")
            for key, entry in value.items():
                print(f"{'':{width}}  {key}: {', '.join(entry) if isinstance(entry, list) else entry}")
        else:
            print(f"{name:{width}}  {value}")
    return 0


def run_selftest(args):
    def progress(done):
        if sys.stderr.isatty():
            print(f"\r{done} of {args.geometries} geometries", end="", file=sys.stderr, flush=True)

    passed, failures = selftest(args.geometries, args.seed, progress)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if args.json:
        print(json.dumps({"passed": passed, "failures": failures}, indent=2))
    else:
        for line in failures[:20]:
            print(f"FAILED {line}")
        print(f"{passed} results equal to the reference bit for bit, {len(failures)} not")
    return 1 if failures else 0


def run_bench(args):
    rng = np.random.default_rng(0)
    call = {"stride": args.stride, "pad": args.pad, "dilation": args.dilation, "groups": args.groups}
    geometry = resolve(args.x, args.w, *call.values(), "NCHW", "--x", "--w")
    x, w = (rng.standard_normal(shape).astype(args.dtype) for shape in (geometry.x_shape, geometry.w_shape))
    out = np.empty(geometry.y_shape, args.dtype)
    contenders = {}
    for method in args.method:
        contenders[method] = lambda method=method: conv2d(x, w, **call, method=method, out=out, threads=args.threads)
    if args.groups == 1:
        contenders["numpy"] = lambda: numpy_conv2d(x, w, geometry.stride, geometry.pad, geometry.dilation)
    seconds = interleaved(contenders, args.seconds)
    facts = {
        "x": geometry.x_shape,
        "w": geometry.w_shape,
        "y": geometry.y_shape,
        "dtype": args.dtype,
        "multiply_adds": geometry.multiply_adds,
        "seconds": seconds,
    }
    if args.json:
        print(json.dumps(facts, indent=2))
        return 0
    print(f"x {geometry.x_shape}, w {geometry.w_shape} -> {geometry.y_shape}, {args.dtype}, into a warm `out`")
    for name, value in sorted(seconds.items(), key=lambda item: item[1]):
        note = "  (sliding_window_view + tensordot, into a fresh array)" if name == "numpy" else ""
        print(f"  {name:10} {value * 1e3:10.3f} ms  {2e-9 * geometry.multiply_adds / value:8.1f} GFLOP/s{note}")
    return 0


def build_parser():
    parser = argparse.ArgumentParser(
        prog="im2colx", description="Multi-channel convolution for NumPy arrays: every convolution a matrix product."
    )
    parser.add_argument("--version", action="version", version=f"im2colx {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(name, run, text):
        part = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        part.set_defaults(run=run)
        return part

    part = command("info", run_info, "show versions, compiler, BLAS, CPU, threads and methods")
    part.add_argument("--json", action="store_true", help="print as JSON")

    part = command("selftest", run_selftest, "compare every method with the slow reference, exactly, on this machine")
    part.add_argument("--geometries", type=positive, default=200, metavar="N", help="random geometries (default 200)")
    part.add_argument("--seed", type=int, default=0, help="of their choice (default 0)")
    part.add_argument("--json", action="store_true", help="print as JSON")

    part = command("bench", run_bench, "time the methods, and plain NumPy, on one layer (default: a 3x3 layer of ResNet-50)")
    part.add_argument("--x", type=integers, default=(1, 64, 56, 56), metavar="N,C,H,W", help="shape of x")
    part.add_argument("--w", type=integers, default=(64, 64, 3, 3), metavar="F,C/G,KH,KW", help="shape of w")
    part.add_argument("--stride", type=positive, default=1)
    part.add_argument("--pad", type=int, default=None, help="zeros on each side (default: half the kernel)")
    part.add_argument("--dilation", type=positive, default=1)
    part.add_argument("--groups", type=positive, default=1)
    part.add_argument("--dtype", choices=("float32", "float64", "complex64", "complex128"), default="float32")
    part.add_argument("--method", nargs="+", choices=[m.name for m in METHODS], default=[m.name for m in METHODS])
    part.add_argument("--threads", type=positive, default=None, help="at most this many (default: all that may be used)")
    part.add_argument("--seconds", type=float, default=2.0, help="to measure altogether (default 2)")
    part.add_argument("--json", action="store_true", help="print as JSON")

    part = command("explain", explain.run, "show how one output of a convolution comes about, with every number put in")
    explain.add_arguments(part)

    part = command(
        "experiment", experiment.run, "train a convolutional network and its fully connected twin on MNIST (arXiv 1712.01252)"
    )
    experiment.add_arguments(part)
    studies.add_studies(part)
    return parser


def main(argv=None):
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; by default those of the process.

    Returns
    -------
    int
        Exit code: 0, 1 for a failed self-test, 2 for bad arguments or data, 130 for Ctrl-C.
    """
    args = build_parser().parse_args(argv)
    if getattr(args, "pad", 0) is None:
        args.pad = "half"
    try:
        code = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read the output has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # lest Python tries again at its end
        return 0
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        print(f"im2colx {args.command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"im2colx {args.command}: interrupted", file=sys.stderr)
        return 130
