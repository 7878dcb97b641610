"""Optimizers: how the gradients move the weights.

Both rules treat each number by itself, so a weight of any shape is taken as one long vector.  `_update` is the rule in
NumPy, which makes a pass over its operands for every operator; where C takes the arrays (float32 and float64), it does the
same in one pass, with several threads and to the same bits.
"""

import math

import numpy as np

from . import _checks as check
from . import _kernels as kernels


class _Optimizer:
    """What SGD and Adam share: the state, and the walk over the parameters.

    A subclass sets `slots`, the names of the vectors that it keeps for each parameter, and has two methods: ``_update(p, g,
    *slots)`` changes p and the slots in place; ``_pass()`` is the pass in C that does the same.

    Attributes
    ----------
    steps : int
        How many times `step` was called.
    """

    slots = ()

    def __init__(self):
        self.steps = 0
        self._state = {}  # for example "0.weight.m": an array like that parameter

    def step(self, parameters, gradients):
        """Move every parameter once, in place.

        Parameters
        ----------
        parameters, gradients : list of (str, ndarray)
            As `Sequential.parameters` and `Sequential.gradients` give them: the same names, shapes and dtypes in the
            same order; C-contiguous.

        Raises
        ------
        ValueError
            If the two lists do not fit each other, or the parameters not those of the steps before.
        """
        self._check(parameters, gradients)
        for name, p in parameters:
            for slot in self.slots:
                if f"{name}.{slot}" not in self._state:
                    self._state[f"{name}.{slot}"] = kernels.zeros(p.shape, p.dtype)
        self.steps += 1
        for (name, p), (_, g) in zip(parameters, gradients, strict=True):
            kept = [self._state[f"{name}.{slot}"] for slot in self.slots]
            is_late = isinstance(g, kernels.Product)
            if kernels.suits(p, *kept, *(g.factors() if is_late else [g])):
                kernels.step_along(g, self._pass(), [p, *kept])
            else:
                # Numbers that overflow are no reason to stop half-way: the next loss is not finite, and `Trainer` says so.
                with np.errstate(over="ignore", invalid="ignore"):
                    self._update(p, g.into(np.empty_like(p)) if is_late else g, *kept)

    def _check(self, parameters, gradients):
        if len(parameters) != len(gradients):
            raise ValueError(f"there are {len(parameters)} parameters, but {len(gradients)} gradients")
        for (name, p), (g_name, g) in zip(parameters, gradients, strict=True):
            if (name, p.shape, p.dtype) != (g_name, g.shape, g.dtype):
                raise ValueError(f"parameter {name!r} has shape {p.shape} and dtype {p.dtype}, but the gradient in its"
                                 f" place is {g_name!r} with shape {g.shape} and dtype {g.dtype}")
            if not (p.flags.c_contiguous and p.flags.writeable and (isinstance(g, kernels.Product) or g.flags.c_contiguous)):
                raise ValueError(f"parameter {name!r} must be C-contiguous and writable, its gradient C-contiguous")
            for slot in self.slots:
                kept = self._state.get(f"{name}.{slot}", p)
                if (kept.shape, kept.dtype) != (p.shape, p.dtype):
                    raise ValueError(f"parameter {name!r} has shape {p.shape} and dtype {p.dtype}, but in the steps"
                                     f" before it had {kept.shape} and {kept.dtype}: give each model its own optimizer")

    def get_state(self):
        """All that the next step depends on beside `lr` and the like, as copies.

        Returns
        -------
        dict
            ``{"steps": int, "0.weight.m": ndarray, ...}``, an array for each parameter and slot.
        """
        return {"steps": self.steps} | {name: array.copy() for name, array in self._state.items()}

    def set_state(self, state):
        """Go on from `state`, a dict as `get_state` gives it (the arrays are copied).

        Raises
        ------
        TypeError, ValueError
            If it is not the state of an optimizer of this kind; then nothing is changed.
        """
        arrays = dict(state)
        steps = check.whole("state['steps']", arrays.pop("steps", None), least=0)
        for name, array in arrays.items():
            if not (isinstance(array, np.ndarray) and name.rpartition(".")[2] in self.slots):
                raise ValueError(f"state has {name!r} of type {type(array).__name__}; {self!r} keeps one array"
                                 f" for each parameter and slot, and its slots are {self.slots}")
        self.steps = steps
        self._state = {name: kernels.copy(array) for name, array in arrays.items()}


class SGD(_Optimizer):
    """Stochastic gradient descent: ``p -= lr * g``; with momentum ``v = momentum * v - lr * g`` and ``p += v``.

    Parameters
    ----------
    lr : float
        The learning rate, > 0.
    momentum : float
        0 <= momentum < 1.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value.

    Examples
    --------
    >>> import numpy as np
    >>> from im2colx import nn
    >>> weight = np.array([1.0, 2.0])
    >>> nn.SGD(lr=0.5).step([("weight", weight)], [("weight", np.array([1.0, -1.0]))])
    >>> weight
    array([0.5, 2.5])
    """

    def __init__(self, lr=0.01, momentum=0.0):
        self.lr = check.real("lr", lr, positive=True)
        self.momentum = check.real("momentum", momentum, below=1)
        super().__init__()

    @property
    def slots(self):  # momentum may be given later, as a schedule does
        return ("velocity",) if self.momentum else ()

    # The hyperparameters are Python floats: NumPy brings them to the dtype of the array that they meet, so that
    # float32 stays float32.
    def _update(self, p, g, *velocity):
        if velocity:
            (v,) = velocity
            v *= self.momentum
            v -= g * self.lr
            p += v
        else:
            p -= g * self.lr

    def _pass(self):
        return kernels.Pass("momentum" if self.slots else "sgd", rate=self.lr, keep1=self.momentum)

    def __repr__(self):
        return f"SGD(lr={self.lr}, momentum={self.momentum})"


class Adam(_Optimizer):
    """Adam (Kingma & Ba 2014) in the form that Keras uses, with ε outside the root.

    In step t = 1, 2, ... each number p with gradient g moves by

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        p -= lr * sqrt(1 - beta2**t) / (1 - beta1**t) * m / (sqrt(v) + eps)

    Parameters
    ----------
    lr : float
        The learning rate, > 0.
    beta1, beta2 : float
        How much of the running means m and v a step keeps, 0 <= beta < 1.
    eps : float
        > 0; it keeps the quotient finite where v is 0.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value.

    Examples
    --------
    The first step has the length lr, however steep the slope:

    >>> import numpy as np
    >>> from im2colx import nn
    >>> weight = np.array([1.0, 1.0])
    >>> nn.Adam(lr=0.1).step([("weight", weight)], [("weight", np.array([0.01, 100.0]))])
    >>> weight.round(4)
    array([0.9, 0.9])
    """

    def __init__(self, lr=0.001, beta1=0.9, beta2=0.999, eps=1e-8):
        self.lr = check.real("lr", lr, positive=True)
        self.beta1 = check.real("beta1", beta1, below=1)
        self.beta2 = check.real("beta2", beta2, below=1)
        self.eps = check.real("eps", eps, positive=True)
        super().__init__()

    slots = ("m", "v")

    def _update(self, p, g, m, v):
        m *= self.beta1
        m += g * (1 - self.beta1)
        v *= self.beta2
        v += g * g * (1 - self.beta2)
        p -= m / (np.sqrt(v) + self.eps) * self._rate()

    def _rate(self):
        return self.lr * math.sqrt(1 - self.beta2**self.steps) / (1 - self.beta1**self.steps)

    def _pass(self):
        return kernels.Pass("adam", self._rate(), self.beta1, self.beta2, self.eps)

    def __repr__(self):
        return f"Adam(lr={self.lr}, beta1={self.beta1}, beta2={self.beta2}, eps={self.eps})"


def takes_late_gradients(optimizer):
    """Whether its `step` is the one above, which knows what to do with a product that is not computed yet."""
    return isinstance(optimizer, _Optimizer) and check.keeps(optimizer, _Optimizer, "step")
