"""The same network with an FC layer in place of its first CONV layer (Ma & Lu, arXiv 1712.01252).

The two forms of the paper: on "patches" one small layer meets every patch of the image, a row of Φ; on the "image" one large
layer meets all pixels at once.  Both are an `nn.Dense` that gets the weights which `im2colx.conv_to_fc` makes of the
filters.  Φ is written out here and multiplied as any matrix is, so no convolution takes part.
"""

import numpy as np

from im2colx import conv_to_fc, nn

FORMS = {"patches": "on patches", "image": "on the whole image"}


class Inputs(nn.Layer):
    """What the FC layer reads where the CONV layer reads images: of each, its patches as rows, or all its pixels."""

    def __init__(self, fc):
        self.fc = fc

    def output_shape(self, input_shape):
        return self.forward(np.empty((1, *input_shape), np.float32)).shape[1:]

    def forward(self, x, training=False):
        rows = np.asarray(self.fc.inputs(x))
        return rows.reshape(len(x), -1, rows.shape[1]) if self.fc.form == "patches" else rows


def swapped(layers, model, form):
    """The network whose first layer, a CONV layer, is an FC layer now; it takes the same images.

    Parameters
    ----------
    layers : list of nn.Layer
        New layers like those of `model`, the first an `nn.Conv2D` without padding and with stride 1, channels last.
    model : nn.Sequential
    form : {"patches", "image"}

    Returns
    -------
    model : nn.Sequential
        To be asked, not to be trained.
    facts : dict
        Of the FC layer: "inputs" of a neuron, how many "neurons" there are, how many "rows" of inputs an image has.
    """
    kernel, bias, *others = model.get_weights()
    fc = conv_to_fc(kernel, (1, *model.input_shape), bias=bias, layout="NHWC", form=form, format="dense")
    weights = fc.weights if form == "patches" else fc.weights.T  # in `nn` a neuron is a column
    shape = fc.y_shape[1:]
    first = [Inputs(fc), nn.Dense(weights.shape[1]), nn.Reshape(shape)]
    result = nn.Sequential([*first, *layers[1:]], input_shape=model.input_shape)
    result.set_weights([weights, fc.bias, *others])
    rows = shape[0] * shape[1] if form == "patches" else 1
    return result, {"inputs": weights.shape[0], "neurons": weights.shape[1], "rows": rows}


def compare(scores, others, labels):
    """What is different where one network says `scores` (n, 10) and the other `others`, and how sure that nothing may be."""
    top = np.sort(scores, axis=1)[:, -2:]
    return {
        "accuracy": float(np.mean(others.argmax(axis=1) == labels)),
        "differ": int(np.count_nonzero(scores.argmax(axis=1) != others.argmax(axis=1))),
        "gap": float(np.abs(scores - others).max()),
        "largest": float(np.abs(scores).max()),
        "closest": float((top[:, 1] - top[:, 0]).min()),
    }
