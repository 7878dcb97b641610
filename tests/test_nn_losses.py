"""The losses: their values, their gradients, the targets that they refuse."""

import math

import numpy as np
import pytest

from im2colx import nn


def softmax_cross_entropy_by_definition(scores, labels):
    total = 0.0
    for row, label in zip(scores.tolist(), labels, strict=True):
        total -= math.log(math.exp(row[label]) / sum(math.exp(score) for score in row))
    return total / len(labels)


def assert_gradient_is_the_slope(loss, prediction, target):
    """By central differences, an element at a time."""
    _, grad = loss.value_and_grad(prediction, target)
    for index in np.ndindex(prediction.shape):
        step = np.zeros_like(prediction)
        step[index] = 1e-6
        slope = (loss.value(prediction + step, target) - loss.value(prediction - step, target)) / 2e-6
        assert grad[index] == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_mse_by_definition():
    rng = np.random.default_rng(0)
    prediction, target = rng.standard_normal((2, 4, 3, 2))
    expected = sum((p - t) ** 2 for p, t in zip(prediction.flat, target.flat, strict=True)) / 24
    loss = nn.MSE()
    value, _ = loss.value_and_grad(prediction, target)
    assert value == pytest.approx(expected, rel=1e-13) and loss.value(prediction, target) == value
    assert_gradient_is_the_slope(loss, prediction, target)


@pytest.mark.parametrize("one_hot", [False, True])
def test_softmax_cross_entropy_by_definition(one_hot):
    scores = np.random.default_rng(1).standard_normal((5, 4)) * 3
    labels = np.array([3, 0, 1, 1, 2], np.uint8)
    target = np.eye(4)[labels] if one_hot else labels
    loss = nn.SoftmaxCrossEntropy()
    value, _ = loss.value_and_grad(scores, target)
    assert value == pytest.approx(softmax_cross_entropy_by_definition(scores, labels), rel=1e-13)
    assert loss.value(scores, target) == value
    assert_gradient_is_the_slope(loss, scores, target)


@pytest.mark.parametrize("one_hot", [False, True])
def test_softmax_cross_entropy_of_rows_in_several_axes(one_hot):
    scores, labels = np.random.default_rng(2).standard_normal((2, 3, 4)), np.array([[3, 0, 1], [1, 2, 2]])
    target = np.eye(4)[labels] if one_hot else labels
    loss = nn.SoftmaxCrossEntropy()
    expected = softmax_cross_entropy_by_definition(scores.reshape(6, 4), labels.ravel())
    assert loss.value(scores, target) == pytest.approx(expected, rel=1e-13)
    assert_gradient_is_the_slope(loss, scores, target)


def test_softmax_cross_entropy_of_large_scores_does_not_overflow():
    value, grad = nn.SoftmaxCrossEntropy().value_and_grad(np.array([[1e4, 0.0], [0.0, 1e4]], np.float32), [0, 0])
    assert value == 5e3
    np.testing.assert_array_equal(grad, [[0, 0], [-0.5, 0.5]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("loss", "target"), [
    (nn.MSE(), np.zeros((2, 3), np.float64)),
    (nn.MSE(), np.zeros((2, 3), np.uint8)),
    (nn.SoftmaxCrossEntropy(), [0, 2]),
    (nn.SoftmaxCrossEntropy(), np.eye(3)[[0, 2]]),
])
def test_the_gradient_has_the_prediction_s_dtype_and_nothing_is_changed(loss, target, dtype):
    prediction = np.arange(6, dtype=dtype).reshape(2, 3)
    prediction.flags.writeable = False
    value, grad = loss.value_and_grad(prediction, target)
    assert type(value) is float and grad.dtype == dtype and grad.shape == prediction.shape


def test_a_loss_that_is_not_finite_is_returned_as_it_is():
    for loss, target in ((nn.MSE(), [[0.0, 0.0]]), (nn.SoftmaxCrossEntropy(), [0])):
        assert math.isnan(loss.value(np.array([[np.nan, 1.0]]), target))


@pytest.mark.parametrize(("loss", "prediction", "target", "error", "message"), [
    (nn.MSE(), np.zeros((2, 3)), np.zeros((2, 1)), ValueError,
     r"target has shape \(2, 1\), but the prediction has \(2, 3\)"),
    (nn.MSE(), np.zeros((0, 3)), np.zeros((0, 3)), ValueError, r"shape \(0, 3\): the mean of no elements"),
    (nn.MSE(), np.zeros((1, 1), int), np.zeros((1, 1)), TypeError, "prediction must be float32 or float64"),
    (nn.MSE(), np.zeros((1, 1)), [["a"]], TypeError, "target must hold real numbers, but has dtype <U1"),
    (nn.MSE(), np.zeros((1, 1)), [[1j]], TypeError, "target must hold real numbers, but has dtype complex128"),
    (nn.MSE(), np.zeros((1, 1)), np.ma.zeros((1, 1)), TypeError, "target is a masked array"),
    (nn.SoftmaxCrossEntropy(), np.zeros((2, 3)), [0, 3], ValueError, "labels from 0 to 3, but the model has 3"),
    (nn.SoftmaxCrossEntropy(), np.zeros((2, 3)), [-1, 0], ValueError, "target has labels from -1 to 0"),
    (nn.SoftmaxCrossEntropy(), np.zeros((2, 3)), [0.0, 1.0], TypeError, "labels must be integers"),
    (nn.SoftmaxCrossEntropy(), np.zeros((2, 3)), [0, 1, 2], ValueError,
     r"target has shape \(3,\), but for a prediction of \(2, 3\) it must be labels of shape \(2,\)"),
    (nn.SoftmaxCrossEntropy(), np.zeros((1, 2)), [[1.0, 1.0]], ValueError, "sums from 2 to 2"),
    (nn.SoftmaxCrossEntropy(), np.zeros((1, 2)), [[2.0, -1.0]], ValueError, "entries from -1.0 to 2.0"),
    (nn.SoftmaxCrossEntropy(), np.zeros((1, 2)), [[np.nan, 1.0]], ValueError, "not one-hot"),
    (nn.SoftmaxCrossEntropy(), np.zeros((0, 2)), np.zeros(0, int), ValueError, "the mean of no elements"),
])
def test_bad_targets_are_named(loss, prediction, target, error, message):
    with pytest.raises(error, match=message):
        loss.value(prediction, target)
    with pytest.raises(error, match=message):
        loss.value_and_grad(prediction, target)
