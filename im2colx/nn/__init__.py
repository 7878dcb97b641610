"""Small neural networks on NumPy arrays: layers, losses, optimizers, a trainer and checkpoints.

Every convolution is `im2colx.conv2d`, every other product is one matrix product, and everything else is a few lines of
NumPy that can be read in an evening.  Read in this order::

    layers.py       Conv2D, Dense, ReLU, Flatten, Reshape: what each computes, and its gradient
    pooling.py      MaxPool2D, the layer that makes images smaller
    dropout.py      Dropout, the layer that draws
    model.py        Sequential: layers one after another
    losses.py       MSE, SoftmaxCrossEntropy: how wrong the model is, and the gradient of that
    optimizers.py   SGD, Adam: how the gradient moves the weights
    trainer.py      Trainer: epochs and batches, history, exact resume
    parallel.py     ParallelTrainer: the same on the workers of a Dask cluster; local_workers starts some on this machine
    checkpoint.py   save_checkpoint, load_checkpoint: one file that is whole or refused

Examples
--------
Learn to add the two numbers of a pair:

>>> import numpy as np
>>> from im2colx import nn
>>> x = np.random.default_rng(0).random((64, 2), dtype=np.float32)
>>> y = x.sum(axis=1, keepdims=True)
>>> model = nn.Sequential([nn.Dense(1)], input_shape=(2,))
>>> trainer = nn.Trainer(model, nn.MSE(), nn.SGD(lr=0.5))
>>> history = trainer.fit(x, y, epochs=100, batch_size=16, progress=False)
>>> history["train_loss"][-1] < 1e-5
True
>>> model.predict([[0.25, 0.5]]).round(2)
array([[0.75]], dtype=float32)
"""

from ._workers import local_workers
from .checkpoint import load_checkpoint, save_checkpoint
from .dropout import Dropout
from .layers import Conv2D, Dense, Flatten, Layer, ReLU, Reshape
from .losses import MSE, SoftmaxCrossEntropy
from .model import Sequential
from .optimizers import SGD, Adam
from .parallel import ParallelTrainer
from .pooling import MaxPool2D
from .trainer import Trainer

__all__ = [
    "MSE",
    "SGD",
    "Adam",
    "Conv2D",
    "Dense",
    "Dropout",
    "Flatten",
    "Layer",
    "MaxPool2D",
    "ParallelTrainer",
    "ReLU",
    "Reshape",
    "Sequential",
    "SoftmaxCrossEntropy",
    "Trainer",
    "load_checkpoint",
    "local_workers",
    "save_checkpoint",
]
