"""The same network with an FC layer in place of its first CONV layer (Ma & Lu, arXiv 1712.01252).

It is an `nn.Dense` with the weights that `im2colx.conv_to_fc` makes of the filters: on "patches" it meets every row of Φ, which
is written out; on the "image" it meets all pixels at once.  No convolution takes part.
"""

import numpy as np

from im2colx import conv_to_fc, nn

FORMS = {"patches": "on patches", "image": "on the whole image"}


class Inputs(nn.Layer):
    """What the FC layer reads of an image: its patches as rows, or all its pixels."""

    def __init__(self, fc):
        self.fc = fc

    def output_shape(self, input_shape):
        return self.forward(np.empty((1, *input_shape), np.float32)).shape[1:]

    def forward(self, x, training=False):
        rows = np.asarray(self.fc.inputs(x))
        return rows.reshape(len(x), -1, rows.shape[1]) if self.fc.form == "patches" else rows


def swapped(layers, model, form):
    """`model`, which begins with a CONV layer as in `network`, with that layer swapped; `layers` are new ones like its own."""
    kernel, bias, *others = model.get_weights()
    fc = conv_to_fc(kernel, (1, *model.input_shape), bias=bias, layout="NHWC", form=form, format="dense")
    weights = fc.weights if form == "patches" else fc.weights.T  # in `nn` a neuron is a column
    first = [Inputs(fc), nn.Dense(weights.shape[1]), nn.Reshape(fc.y_shape[1:])]
    result = nn.Sequential([*first, *layers[1:]], input_shape=model.input_shape)
    result.set_weights([weights, fc.bias, *others])
    return result


def compare(scores, others, labels):
    """How far the scores (n, classes) of another network are from `scores`, and how close the closest decision is."""
    top = np.sort(scores, axis=1)[:, -2:]
    return {
        "accuracy": float(np.mean(others.argmax(axis=1) == labels)),
        "differ": int(np.count_nonzero(scores.argmax(axis=1) != others.argmax(axis=1))),
        "gap": float(np.abs(scores - others).max()),
        "largest": float(np.abs(scores).max()),
        "closest": float((top[:, 1] - top[:, 0]).min()),
    }
