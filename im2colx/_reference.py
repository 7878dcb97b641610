"""The slow NumPy twin of everything: what the fast code must compute, kept for ever.

Nothing here calls the core or shares code with it.  Shapes are those of the public functions with all axes present;
pads are ((top, bottom), (left, right)), other pairs (vertical, horizontal).  Results have the dtype of NumPy's own
arithmetic on the arguments, so a test chooses the precision by choosing the arguments.
"""

import numpy as np


def index_map(x_shape, kernel, stride, pad, dilation, layout):
    """Eq. 8: for every row p and column q of Φ the image, channel, row and column of x, and whether it is inside.

    Returns
    -------
    n, c, i, j, inside : ndarrays that broadcast to (N·OH·OW, C·KH·KW)
    """
    batch, *rest = x_shape
    channels, height, width = rest if layout == "NCHW" else (rest[2], rest[0], rest[1])
    kh, kw = kernel
    oh = (height + sum(pad[0]) - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    ow = (width + sum(pad[1]) - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    p = np.arange(batch * oh * ow)[:, None]
    q = np.arange(channels * kh * kw)[None, :]
    n, a, b = p // (oh * ow), p // ow % oh, p % ow
    if layout == "NCHW":
        c, u, v = q // (kh * kw), q // kw % kh, q % kw
    else:
        u, v, c = q // (kw * channels), q // channels % kw, q % channels
    i = a * stride[0] + u * dilation[0] - pad[0][0]
    j = b * stride[1] + v * dilation[1] - pad[1][0]
    return n, c, i, j, (0 <= i) & (i < height) & (0 <= j) & (j < width)


def im2col(x, kernel, stride, pad, dilation, layout="NCHW"):
    """Φ, entry by entry."""
    n, c, i, j, inside = index_map(x.shape, kernel, stride, pad, dilation, layout)
    n, c, i, j = np.broadcast_arrays(n, c, np.where(inside, i, 0), np.where(inside, j, 0))
    phi = np.zeros(inside.shape, x.dtype)
    at = (n, c, i, j) if layout == "NCHW" else (n, i, j, c)
    phi[inside] = x[tuple(index[inside] for index in at)]
    return phi


def col2im(patches, x_shape, kernel, stride, pad, dilation, layout="NCHW"):
    """The adjoint of im2col: every entry added back."""
    n, c, i, j, inside = index_map(x_shape, kernel, stride, pad, dilation, layout)
    n, c, i, j = np.broadcast_arrays(n, c, i, j)
    x = np.zeros(x_shape, patches.dtype)
    at = (n, c, i, j) if layout == "NCHW" else (n, i, j, c)
    np.add.at(x, tuple(index[inside] for index in at), patches[inside])
    return x


def _split(array, groups, axis):
    return np.split(array, groups, axis=axis)


def _filters(w, layout):
    """w as a matrix: a filter a column."""
    return w.reshape(len(w), -1).T if layout == "NCHW" else w.reshape(-1, w.shape[-1])


def _rows(y, layout):
    """y as a matrix: a patch a row."""
    return (np.moveaxis(y, 1, -1) if layout == "NCHW" else y).reshape(-1, y.shape[1 if layout == "NCHW" else -1])


def conv2d(x, w, stride, pad, dilation, groups, bias=None, layout="NCHW"):
    """Y = Φ W for each group (section 4)."""
    channel, filter_axis = (1, 0) if layout == "NCHW" else (-1, -1)
    kernel = w.shape[2:] if layout == "NCHW" else w.shape[:2]
    parts = []
    for xg, wg in zip(_split(x, groups, channel), _split(w, groups, filter_axis), strict=True):
        parts.append(im2col(xg, kernel, stride, pad, dilation, layout) @ _filters(wg, layout))
    y = np.concatenate(parts, axis=1)
    if bias is not None:
        y = y + bias
    size = x.shape[2:] if layout == "NCHW" else x.shape[1:3]
    out = [(size[k] + sum(pad[k]) - dilation[k] * (kernel[k] - 1) - 1) // stride[k] + 1 for k in range(2)]
    y = y.reshape(len(x), *out, -1)
    return np.moveaxis(y, -1, 1) if layout == "NCHW" else y


def conv2d_grad_input(grad_y, w, x_shape, stride, pad, dilation, groups, layout="NCHW"):
    """col2im(grad_Y Wᴴ) for each group."""
    channel, filter_axis = (1, 0) if layout == "NCHW" else (-1, -1)
    kernel = w.shape[2:] if layout == "NCHW" else w.shape[:2]
    shape = list(x_shape)
    shape[channel] //= groups
    parts = []
    for yg, wg in zip(_split(grad_y, groups, channel), _split(w, groups, filter_axis), strict=True):
        phi = _rows(yg, layout) @ _filters(wg, layout).conj().T
        parts.append(col2im(phi, tuple(shape), kernel, stride, pad, dilation, layout))
    return np.concatenate(parts, axis=channel)


def conv2d_grad_weight(x, grad_y, w_shape, stride, pad, dilation, groups, layout="NCHW"):
    """Φᴴ grad_Y for each group."""
    channel, filter_axis = (1, 0) if layout == "NCHW" else (-1, -1)
    kernel = w_shape[2:] if layout == "NCHW" else w_shape[:2]
    parts = []
    for xg, yg in zip(_split(x, groups, channel), _split(grad_y, groups, channel), strict=True):
        grad = im2col(xg, kernel, stride, pad, dilation, layout).conj().T @ _rows(yg, layout)
        shape = list(w_shape)
        shape[filter_axis] //= groups
        parts.append(grad.T.reshape(shape) if layout == "NCHW" else grad.reshape(shape))
    return np.concatenate(parts, axis=filter_axis)


def gram(x, kernel, stride, pad, dilation, layout="NCHW"):
    """ΦᴴΦ of a stored Φ."""
    phi = im2col(x, kernel, stride, pad, dilation, layout)
    return phi.conj().T @ phi


def conv_matrix(w, x_shape, stride, pad, dilation, groups, layout="NCHW", circular=False):
    """The matrix of a convolution of one image: the weight of column q of Φ goes where row p of Φ has x[t(p, q)].

    `x_shape` has a batch axis.  If `circular`, t is taken modulo the size of the image instead of being left out outside it.
    """
    _, *rest = x_shape
    channels, height, width = rest if layout == "NCHW" else (rest[2], rest[0], rest[1])
    kernel = w.shape[2:] if layout == "NCHW" else w.shape[:2]
    group = (1, channels // groups, height, width) if layout == "NCHW" else (1, height, width, channels // groups)
    _, c, i, j, inside = index_map(group, kernel, stride, pad, dilation, layout)
    c, i, j = np.broadcast_arrays(c, i % height if circular else i, j % width if circular else j)
    p, q = np.nonzero(inside | circular)
    c, i, j = c[p, q], i[p, q], j[p, q]
    filters = _filters(w, layout)
    matrix = np.zeros((filters.shape[1] * len(inside), channels * height * width), w.dtype)
    for f, weights in enumerate(filters.T):
        cf = c + f // (filters.shape[1] // groups) * (channels // groups)
        if layout == "NCHW":
            rows, columns = f * len(inside) + p, (cf * height + i) * width + j
        else:
            rows, columns = p * filters.shape[1] + f, (i * width + j) * channels + cf
        np.add.at(matrix, (rows, columns), weights[q])
    return matrix
