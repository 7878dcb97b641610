"""Multi-channel convolution for NumPy arrays: every convolution a matrix product.

`conv2d` and its gradients `conv2d_grad_input` and `conv2d_grad_weight` take plain arrays.  The patch matrix Φ that makes
a convolution a product is `im2col` in memory, `PatchMatrix` without storing it, and `col2im` is its adjoint.  The matrix
of a whole layer is `conv_matrix`, its singular values are `singular_values`, and `conv_to_fc` and `fc_to_conv` lead from a
convolutional layer to the fully connected one that equals it, and back.
`im2colx.nn` has layers, optimizers and a trainer built on them, and ``python -m im2colx experiment`` trains a
convolutional network and its fully connected twin, after arXiv 1712.01252.
"""

try:
    from im2colx import _core as _core
except ModuleNotFoundError as error:
    if error.name not in ("im2colx._core", "im2colx._blas"):
        raise
    # Most often: Python was started in a checkout, whose im2colx folder hides the installed package.
    raise ImportError(
        f"the C core of im2colx is not built in {__path__[0]}: either leave this folder, so that the installed package "
        "is found, or build it here with `pip install -e .`"
    ) from error

from im2colx._explain import Explanation, explain
from im2colx._info import info
from im2colx._methods import methods
from im2colx._plan import Plan, plan_conv2d
from im2colx._recover import NotAConvolutionError
from im2colx._threads import get_num_threads, set_num_threads
from im2colx._version import __version__
from im2colx.conv import conv2d, conv2d_grad_input, conv2d_grad_weight, output_shape
from im2colx.equivalence import conv_to_fc, fc_to_conv
from im2colx.matrix import ConvOperator, conv_matrix, singular_values, spectral_norm
from im2colx.patch_matrix import PatchMatrix
from im2colx.patches import col2im, im2col

__all__ = [
    "ConvOperator",
    "Explanation",
    "NotAConvolutionError",
    "PatchMatrix",
    "Plan",
    "__version__",
    "col2im",
    "conv2d",
    "conv2d_grad_input",
    "conv2d_grad_weight",
    "conv_matrix",
    "conv_to_fc",
    "explain",
    "fc_to_conv",
    "get_num_threads",
    "im2col",
    "info",
    "methods",
    "output_shape",
    "plan_conv2d",
    "set_num_threads",
    "singular_values",
    "spectral_norm",
]
