"""Losses: one number that says how wrong a prediction is, and its gradient with respect to the prediction.

A loss is any object with the three methods of `MSE`; `Trainer` asks for nothing else.
"""

import numpy as np

from . import _checks as check


class MSE:
    """Mean squared error over all elements: ``L = mean((prediction - target)**2)``.

    The mean runs over the batch and over every element of a sample, as in Keras.

    Examples
    --------
    >>> import numpy as np
    >>> from im2colx import nn
    >>> nn.MSE().value_and_grad(np.array([[1.0, 2.0]]), np.array([[1.0, 4.0]]))
    (2.0, array([[ 0., -2.]]))
    """

    def check(self, prediction_shape, target, name="target"):
        """The target as an array, if it fits a prediction of `prediction_shape`; else an error that calls it `name`."""
        target = check.numbers_array(name, target)
        if target.shape != prediction_shape:
            raise ValueError(f"{name} has shape {target.shape}, but the prediction has {prediction_shape}")
        return target

    def value(self, prediction, target):
        """The loss alone, as float.

        Parameters
        ----------
        prediction : ndarray of float32 or float64
        target : array_like
            Of the same shape.

        Raises
        ------
        TypeError, ValueError
            If there is no sample, or the target does not fit the prediction.
        """
        return self._value(self._difference(prediction, target))

    def value_and_grad(self, prediction, target):
        """The loss (float) and dL/dprediction = 2 (prediction - target) / size, in the prediction's dtype.

        Parameters and errors as in `value`.
        """
        difference = self._difference(prediction, target)
        value = self._value(difference)
        difference *= 2 / difference.size
        return value, difference

    def _difference(self, prediction, target):
        prediction = _not_empty(prediction)
        target = self.check(prediction.shape, target)
        return prediction - target.astype(prediction.dtype, copy=False)

    @staticmethod
    def _value(difference):
        return float(np.mean(difference * difference, dtype=np.float64))

    def __repr__(self):
        return "MSE()"


class SoftmaxCrossEntropy:
    """Cross-entropy of class scores (logits): ``L = mean over rows of -log softmax(row)[label]``.

    softmax(z)[k] = exp(z[k]) / sum_j exp(z[j]).  It is part of the loss, so the model ends in a plain `Dense` layer.

    Examples
    --------
    Two classes with equal scores: the loss is log 2, and the gradient raises the score of the right one.

    >>> import numpy as np
    >>> from im2colx import nn
    >>> value, grad = nn.SoftmaxCrossEntropy().value_and_grad(np.array([[0.0, 0.0]]), [1])
    >>> round(value, 6), grad
    (0.693147, array([[ 0.5, -0.5]]))
    """

    def check(self, prediction_shape, target, name="target"):
        """The target as an array, if it fits a prediction of `prediction_shape`; else an error that calls it `name`."""
        target = check.numbers_array(name, target)
        *rows, classes = prediction_shape
        if target.shape == tuple(rows):
            if target.dtype.kind not in "iu":
                raise TypeError(f"{name} has dtype {target.dtype}, but labels must be integers"
                                f" (or one-hot rows of shape {prediction_shape})")
            if target.size and not (target.min() >= 0 and target.max() < classes):
                raise ValueError(f"{name} has labels from {target.min()} to {target.max()},"
                                 f" but the model has {classes} classes: labels must be 0 to {classes - 1}")
        elif target.shape == prediction_shape:
            sums = target.sum(axis=-1, dtype=np.float64)
            if not (np.all(target >= 0) and np.allclose(sums, 1, rtol=0, atol=1e-5)):
                raise ValueError(f"{name} has rows that are not one-hot: entries from {target.min()} to"
                                 f" {target.max()}, sums from {sums.min():g} to {sums.max():g}; needed: >= 0, sum 1")
        else:
            raise ValueError(f"{name} has shape {target.shape}, but for a prediction of {prediction_shape} it must be"
                             f" labels of shape {tuple(rows)} or one-hot rows of shape {prediction_shape}")
        return target

    def value(self, prediction, target):
        """The loss alone, as float.

        Parameters
        ----------
        prediction : ndarray of float32 or float64, shape (N, K)
            A score for each of K classes.
        target : array_like
            Integer labels 0 to K - 1, shape (N,), or one-hot rows (or probabilities: >= 0, sum 1), shape (N, K).

        Raises
        ------
        TypeError, ValueError
            If there is no sample, or the target does not fit the prediction.
        """
        return self.value_and_grad(prediction, target)[0]

    def value_and_grad(self, prediction, target):
        """The loss (float) and dL/dprediction = (softmax(prediction) - onehot) / N, in the prediction's dtype.

        Parameters and errors as in `value`.
        """
        prediction = _not_empty(prediction)
        target = self._one_hot(prediction, self.check(prediction.shape, target))
        rows = prediction.size // prediction.shape[-1]
        # Subtracting the row's maximum changes nothing in the quotient, and exp can no longer overflow.
        shifted = prediction - prediction.max(axis=-1, keepdims=True)
        softmax = np.exp(shifted)
        total = softmax.sum(axis=-1, keepdims=True)
        softmax /= total
        log_softmax = shifted - np.log(total)
        value = -float(np.sum(target * log_softmax, dtype=np.float64)) / rows
        return value, (softmax - target) / rows

    @staticmethod
    def _one_hot(prediction, target):
        if target.shape == prediction.shape:
            return target.astype(prediction.dtype, copy=False)
        one_hot = np.zeros_like(prediction)
        np.put_along_axis(one_hot, target[..., np.newaxis].astype(np.intp), 1, axis=-1)
        return one_hot

    def __repr__(self):
        return "SoftmaxCrossEntropy()"


def _not_empty(prediction):
    prediction = check.numbers_array("prediction", prediction)
    if prediction.dtype not in (np.float32, np.float64):
        raise TypeError(f"prediction must be float32 or float64, but has dtype {prediction.dtype}")
    if prediction.size == 0:
        raise ValueError(f"prediction has shape {prediction.shape}: the mean of no elements is not defined")
    return prediction
