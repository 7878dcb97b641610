"""From a CONV layer to the FC layer that equals it, and back (arXiv 1712.01252)."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from im2colx import _plan, _recover
from im2colx._geometry import Geometry, fraction, operand, resolve, shape, shown
from im2colx.matrix import check_format, conv_matrix
from im2colx.patch_matrix import PatchMatrix

FORMS = ("patches", "image")


def _check_form(form):
    if not isinstance(form, str):
        raise TypeError(f"form must be a string, not {shown(form)}")
    if form not in FORMS:
        raise ValueError(f"form is {shown(form)}, but must be one of {', '.join(FORMS)}")


# ---- CONV to FC -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FullyConnected:
    """The FC layer that equals a CONV layer: made by `conv_to_fc`, called like a function.

    ``fc(x)`` is ``conv2d(x, w, ..., bias=bias)``, computed as the FC layer is:

    - on patches, ``fc.outputs(fc.inputs(x) @ fc.weights + fc.bias)``: one small layer for every patch;
    - on images, ``fc.outputs(fc.inputs(x) @ fc.weights.T + fc.bias)``: one large layer for the whole image.

    Attributes
    ----------
    form : {"patches", "image"}
    weights : ndarray, csr_array or ConvOperator
        On patches (C·KH·KW, F): a neuron a column.  On images (F·OH·OW, C·H·W), as `conv_matrix` gives it: a neuron a row.
    bias : ndarray or None
        A number for each neuron: (F,) or (F·OH·OW,).
    x_shape, y_shape : tuple of int
        Of the CONV layer's input and output.  If there is a batch, it may have any size.
    """

    form: str
    weights: object
    bias: np.ndarray | None
    x_shape: tuple
    y_shape: tuple
    _geometry: Geometry = field(repr=False)

    def inputs(self, x):
        """What the FC layer reads where the CONV layer reads x.

        Parameters
        ----------
        x : array_like
            Of shape `x_shape`, but for the size of the batch.

        Returns
        -------
        PatchMatrix or ndarray
            On patches Φ, (N·OH·OW, C·KH·KW), which is not stored.  On images ``x.reshape(N, -1)``, (N, C·H·W).

        Raises
        ------
        ValueError, TypeError
        """
        x, g = operand("x", x), self._geometry
        first = 1 if g.given == "batch" else 0
        if x.ndim != len(self.x_shape) or x.shape[first:] != self.x_shape[first:]:
            raise ValueError(f"x has shape {x.shape}, but the layer was made for {self.x_shape}")
        if self.form == "image":
            return g.full_image(x).reshape(len(x) if first else 1, math.prod(self.x_shape[first:]))
        return PatchMatrix(x, g.kernel, g.stride, g.pad, g.dilation, layout="NHWC" if g.channels_last else "NCHW")

    def outputs(self, y):
        """The outputs of the FC layer in the shape of those of the CONV layer.

        Parameters
        ----------
        y : array_like, (N·OH·OW, F) or (N, F·OH·OW)
            What the FC layer gives, on patches or on images.

        Returns
        -------
        ndarray
            Of shape `y_shape`, but for the size of the batch.

        Raises
        ------
        ValueError, TypeError
        """
        y, g = operand("y", y), self._geometry
        rows, columns = (g.outputs, g.filters) if self.form == "patches" else (1, g.outputs * g.filters)
        batch = len(y) // rows if y.ndim else 0
        if y.shape != (batch * rows, columns) or g.given != "batch" and batch != 1:
            images = "N" if g.given == "batch" else "1"
            raise ValueError(f"y has shape {y.shape}, but {self.form} give ({images}·{rows}, {columns})")
        if self.form == "image" or g.channels_last:
            y = y.reshape(batch, *g.y_shape[1:])
        else:
            y = np.moveaxis(y.reshape(batch, *g.output, g.filters), -1, 1)
        return y.reshape(g.given_image(y.shape))

    def __call__(self, x):
        inputs = self.inputs(x)
        y = inputs @ self.weights if self.form == "patches" else (self.weights @ inputs.T).T
        return self.outputs(y if self.bias is None else y + self.bias)


def conv_to_fc(
    w, x_shape, stride=1, pad=0, dilation=1, groups=1, *, bias=None, layout="NCHW", form="patches", format="csr"
):  # fmt: skip
    """The FC layer that equals a CONV layer: its weights, its bias, and how to make its inputs.

    Parameters
    ----------
    w, stride, pad, dilation, groups, bias, layout
        Those of the CONV layer, as in `conv2d`.
    x_shape : tuple of int
        Shape of its input.
    form : {"patches", "image"}
        Which of the paper's two forms.  "patches": the inputs are the rows of Φ, one for every output position, and the filters
        are the columns of the weights (section 4); with groups, zeros stand where a filter does not see a channel.  "image":
        the inputs are whole images, flattened, and every output element is a neuron.
    format : {"csr", "dense", "operator"}
        Of the weights on images: see `conv_matrix`.

    Returns
    -------
    FullyConnected
        With `weights`, `bias`, ``inputs(x)`` and ``outputs(y)``; called with x, it gives what `conv2d` gives.

    Raises
    ------
    ValueError, TypeError, OverflowError, MemoryError
        As `conv2d` and `conv_matrix`.

    See Also
    --------
    fc_to_conv : the way back.

    Examples
    --------
    >>> import numpy as np
    >>> from im2colx import conv2d, conv_to_fc
    >>> rng = np.random.default_rng(0)
    >>> x, w, b = rng.random((2, 3, 6, 6)), rng.random((5, 3, 3, 3)), rng.random(5)
    >>> fc = conv_to_fc(w, x.shape, stride=2, pad=1, bias=b)
    >>> fc.inputs(x).shape, fc.weights.shape, fc.bias.shape
    ((18, 27), (27, 5), (5,))
    >>> y = fc.inputs(x) @ fc.weights + fc.bias
    >>> np.allclose(fc.outputs(y), conv2d(x, w, stride=2, pad=1, bias=b))
    True
    >>> fc = conv_to_fc(w, x.shape, stride=2, pad=1, bias=b, form="image")
    >>> fc.inputs(x).shape, fc.weights.shape, fc.bias.shape
    ((2, 108), (45, 108), (45,))
    >>> np.allclose(fc(x), conv2d(x, w, stride=2, pad=1, bias=b))
    True
    """
    w, x_shape = operand("w", w), shape("x_shape", x_shape, (2, 3, 4))
    g = resolve(x_shape, w.shape, stride, pad, dilation, groups, layout, "x_shape")
    bias = _plan.check_bias(bias, g)
    _check_form(form)
    check_format(format)
    if form == "patches":
        weights = np.zeros((g.groups * g.columns, g.filters), w.dtype.newbyteorder("="))
        blocks = _recover.by_group(weights, g)
        filters = _filters_first(g.full_weight(w), g).reshape(g.groups, g.filters // g.groups, -1, *g.kernel)
        for group in range(g.groups):
            blocks[group, group] = filters[group]
    else:
        weights = conv_matrix(w, x_shape, stride, pad, dilation, groups, layout=layout, format=format)
        if bias is not None:
            bias = np.tile(bias, g.outputs) if g.channels_last else np.repeat(bias, g.outputs)
    return FullyConnected(form, weights, bias, x_shape, g.given_image(g.y_shape), g)


def _filters_first(w, g):
    """A view of w as (F, C/G, KH, KW)."""
    return np.moveaxis(w, (3, 2), (0, 1)) if g.channels_last else w


# ---- FC to CONV -----------------------------------------------------------------------------------------------------


class Convolution(NamedTuple):
    """What `fc_to_conv` found.

    Attributes
    ----------
    w : ndarray
        The filters.
    bias : ndarray or None
        (F,)
    deviation : float
        The greatest difference between the weights (or bias) that were given and those of the convolution: 0 if they are equal.
    """

    w: np.ndarray
    bias: np.ndarray | None
    deviation: float


def fc_to_conv(
    weights, x_shape, w_shape, stride=1, pad=0, dilation=1, groups=1, *, bias=None, layout="NCHW", form="patches", tol=None
):  # fmt: skip
    """The CONV layer that equals an FC layer: `conv_to_fc` backwards.

    Any weights on patches are those of a convolution (without groups).  Those on images are only if they are zero where a patch
    does not reach, and repeat the same weight for every patch.

    Parameters
    ----------
    weights : array_like, sparse array or ConvOperator
        On patches (C·KH·KW, F); on images (F·OH·OW, C·H·W).
    x_shape, w_shape : tuple of int
        Shapes of the input and the filters of the CONV layer.
    stride, pad, dilation, groups, layout
        Those of the CONV layer.
    bias : array_like, optional
        A number for each neuron: (F,) or (F·OH·OW,).
    form : {"patches", "image"}
    tol : float, optional
        How far an entry may be from that of the convolution, relative to the largest absolute entry.  By default 16 roundings of
        the dtype, and nothing for integers.

    Returns
    -------
    Convolution
        (w, bias, deviation).  Where copies of a weight differ, within `tol`, w is their mean: the nearest convolution in the
        Euclidean norm.  A weight that meets only padding is zero, whatever it was.

    Raises
    ------
    NotAConvolutionError
        If the weights or the bias are not those of such a convolution.  It is a ValueError that tells by how much and where.
    ValueError, TypeError
        For shapes that do not fit together, and nan or inf in the weights.

    Examples
    --------
    >>> import numpy as np
    >>> from im2colx import conv_to_fc, fc_to_conv
    >>> w = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> fc = conv_to_fc(w, (1, 3, 3), form="image", format="dense")
    >>> fc_to_conv(fc.weights, (1, 3, 3), w.shape, form="image").w
    array([[[[1., 2.],
             [3., 4.]]]])
    >>> fc.weights[0, 8] = 0.5
    >>> fc_to_conv(fc.weights, (1, 3, 3), w.shape, form="image")
    Traceback (most recent call last):
    im2colx.NotAConvolutionError: weights is not that of such a convolution: row 0, column 8 (output f=0, a=0, b=0; \
input c=0, i=2, j=2) is 0.5, but must be zero: the patch does not hold this pixel. The deviation is 0.5, 0.125 of the largest \
entry, and tol is 3.6e-15
    """
    x_shape, w_shape = shape("x_shape", x_shape, (2, 3, 4)), shape("w_shape", w_shape, (2, 4))
    g = resolve(x_shape, w_shape, stride, pad, dilation, groups, layout, "x_shape", "w_shape")
    _check_form(form)
    weights = _recover.matrix_of(weights, form, g)
    neurons = g.filters * (g.outputs if form == "image" else 1)
    if bias is not None:
        bias = operand("bias", bias)
        if bias.shape != (neurons,):
            raise ValueError(f"bias has shape {bias.shape}, but must be ({neurons},): one number for each neuron")
    if tol is not None:
        tol = fraction("tol", tol, may_be_zero=True)
    w, deviation = (_recover.from_image if form == "image" else _recover.from_patches)(weights, g, tol)
    if bias is not None:
        bias, bias_deviation = _recover.shared_bias(bias, g, tol) if form == "image" else (bias.copy(), 0.0)
        deviation = max(deviation, bias_deviation)
    w = np.moveaxis(w, (0, 1), (3, 2)) if g.channels_last else w
    return Convolution(np.ascontiguousarray(w).reshape(g.given_weight()), bias, deviation)
