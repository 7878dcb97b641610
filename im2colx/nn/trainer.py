"""The trainer: epochs of shuffled batches, with history, validation, and a resume that is exact to the last bit."""

import math
import os
import time
import warnings
from pathlib import Path

import numpy as np

from . import _checks as check
from ._kernels import Room
from ._progress import reporter
from .checkpoint import load_last_good, previous, save_checkpoint
from .model import Sequential
from .optimizers import takes_late_gradients

HISTORY = ("train_loss", "val_loss", "epoch_seconds")

# What is known of the epoch under way: how many of its samples are behind, the sum of their losses, the seconds.
_NOTHING = {"samples": 0, "loss": 0.0, "seconds": 0.0}


class Trainer:
    """Fits a model to data: minimises a loss over batches with an optimizer.

    Parameters
    ----------
    model : Sequential
    loss : MSE, SoftmaxCrossEntropy, or any object with their methods
    optimizer : SGD or Adam
        One for each trainer: it remembers things about its model's weights.
    seed : int
        For the order of the samples, at least 0.  Epoch e = 0, 1, ... runs through
        ``numpy.random.default_rng([seed, e]).permutation(N)``, whatever the model: trainers with the same seed see the
        same batches.  Before the batch at position s, ``model.reseed(seed, e, s)`` starts the draws of layers such
        as `Dropout` anew.
    trace : tuple of str
        Names of weights, like ``"0.weight"``, of which a copy shall be kept after every epoch.

    Attributes
    ----------
    history : dict of str to list
        One entry per finished epoch: "train_loss", the mean of the loss over the epoch's samples, each taken when its
        batch was trained on; "val_loss", the loss of the validation data after the epoch (None without such data);
        "epoch_seconds", the time for the epoch's batches, without validation and checkpoint.
    trace : dict of str to list of ndarray
        The copies, one per finished epoch.
    processes : list of int
        How many processes shared each batch: [1], but in `ParallelTrainer` the number of workers.  Where a run was resumed
        with another number, there is one after another.
    model, loss, optimizer, seed
        As given.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value.

    Examples
    --------
    >>> import numpy as np
    >>> from im2colx import nn
    >>> x = np.linspace(-1, 1, 100)[:, np.newaxis]
    >>> model = nn.Sequential([nn.Dense(16), nn.ReLU(), nn.Dense(1)], input_shape=(1,))
    >>> trainer = nn.Trainer(model, nn.MSE(), nn.Adam(lr=0.01))
    >>> history = trainer.fit(x, x**2, epochs=50, batch_size=10, progress=False)
    >>> len(history["train_loss"]), trainer.evaluate(x, x**2) < 0.01
    (50, True)
    """

    def __init__(self, model, loss, optimizer, *, seed=14343, trace=()):
        if not isinstance(model, Sequential):
            raise TypeError(f"model must be a Sequential, but is {model!r}")
        _has_methods("loss", loss, ("check", "value", "value_and_grad"), "nn.MSE()")
        _has_methods("optimizer", optimizer, ("step", "get_state", "set_state"), "nn.SGD()")
        self.model = model
        self.loss = loss
        self.optimizer = optimizer
        self.seed = check.seed("seed", seed)
        self.history = {key: [] for key in HISTORY}
        self.trace = {name: [] for name in _checked_trace(trace, model)}
        self.processes = []
        self._part = dict(_NOTHING)
        self._room = Room()

    def fit(self, x, y, epochs, batch_size=128, *, validation_data=None, progress=True, checkpoint=None,
            checkpoint_every=1, checkpoint_seconds=None, resume=False, callback=None, label=""):
        """Train for a number of epochs.

        Called again, it goes on where it stopped, and `history` grows.  Ctrl-C stops it at once: the weights are then
        those of an unfinished epoch, and the last checkpoint is whole.

        Parameters
        ----------
        x : array_like, shape (N, *model.input_shape)
        y : array_like
            The targets, as the loss wants them: for `MSE` of shape (N, *model.output_shape).
        epochs : int
            How many epochs to add; but when a run is resumed, how many it shall have in all.
        batch_size : int
            The last batch of an epoch is smaller if this does not divide N.
        validation_data : (x, y), optional
            To be evaluated after every epoch.
        progress : bool
            Whether to show progress on stderr: a bar if tqdm is installed, else a line per epoch.
        checkpoint : path-like, optional
            File to which everything that a resume needs is written, replacing it whole.  Three times the size of the
            weights under `Adam`.  The one before it is kept beside it, with ``.previous`` after its name.
        checkpoint_every : int
            Write it after every so many epochs, and after the last.
        checkpoint_seconds : float, optional
            Write it also whenever another batch might make the last one older than this, in the middle of an epoch too.
        resume : bool
            Go on from `checkpoint` if that file exists, else start afresh.  The result is the same to the last bit as
            without the interruption.  If the run has all its epochs already, only its state and history are restored.
            If the file is damaged, the one before it serves, with a warning.
        callback : callable, optional
            ``callback(trainer)`` is called after every epoch (and its checkpoint, if there is one).  What it changes about the
            optimizer, such as `lr`, is in no checkpoint: such a run does not resume exactly.
        label : str
            A name for the progress display.

        Returns
        -------
        dict
            `history`, with the epochs before this call too.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type or value; or, on resume, if the checkpoint is damaged (and the one before
            it too), comes from another model, optimizer, loss, seed, trace, batch size or number of samples, or is
            further already.  Nothing has changed then.
        FileNotFoundError
            If the folder of `checkpoint` does not exist.
        FloatingPointError
            If a loss or a weight is not finite any more: the training diverged, or the data hold nan or inf.
        """
        x, y = self._data(x, y)
        if validation_data is not None:
            validation_data = self._validation(validation_data)
        epochs = check.whole("epochs", epochs)
        batch_size = check.whole("batch_size", batch_size)
        progress, resume = check.flag("progress", progress), check.flag("resume", resume)
        checkpoint_every = check.whole("checkpoint_every", checkpoint_every)
        if checkpoint_seconds is not None:
            checkpoint_seconds = check.real("checkpoint_seconds", checkpoint_seconds, positive=True)
        if checkpoint is not None:
            checkpoint = _checkpoint_path(checkpoint)
        elif resume:
            raise ValueError("resume=True needs a checkpoint to resume from, but checkpoint is None")
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be a function, but is {callback!r}")
        if not isinstance(label, str):
            raise TypeError(f"label must be a str, but is {label!r}")

        settings = self._settings(batch_size, len(x))
        self._part = dict(_NOTHING)
        if resume and (checkpoint.exists() or previous(checkpoint).exists()):
            self._restore(checkpoint, settings, epochs)
        else:
            epochs += len(self.history["train_loss"])
        done = len(self.history["train_loss"])
        if done < epochs and self.processes[-1:] != [self._number_of_processes()]:
            self.processes.append(self._number_of_processes())

        keeper = _Keeper(checkpoint and (lambda: self._save(checkpoint, settings)), checkpoint_seconds)
        report = reporter(progress and done < epochs, label, done, epochs, steps=math.ceil(len(x) / batch_size))
        try:
            for epoch in range(done, epochs):
                loss = self._train_epoch(x, y, epoch, batch_size, report, keeper)
                val_loss = self._validate(validation_data, epoch, batch_size)
                for key, value in zip(HISTORY, (loss, val_loss, self._part["seconds"]), strict=True):
                    self.history[key].append(value)
                self._part = dict(_NOTHING)
                for name, weight in self.model.parameters():
                    if name in self.trace:
                        self.trace[name].append(weight.copy())
                if (epoch + 1) % checkpoint_every == 0 or epoch + 1 == epochs or keeper.due():
                    keeper.save()
                report.epoch(epoch, loss, val_loss)
                if callback is not None:
                    callback(self)
        finally:
            report.close()
        return self.history

    def evaluate(self, x, y, batch_size=128):
        """The mean loss over the samples, without training.

        Parameters
        ----------
        x, y
            As in `fit`.
        batch_size : int
            How many samples are computed at a time.

        Returns
        -------
        float

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type or value.
        """
        x, y = self._data(x, y)
        batch_size = check.whole("batch_size", batch_size)
        total = 0.0
        for start in range(0, len(x), batch_size):
            batch = slice(start, start + batch_size)
            total += self.loss.value(self.model.forward(x[batch]), y[batch]) * len(x[batch])
        return total / len(x)

    def _train_epoch(self, x, y, epoch, batch_size, report, keeper):
        """One run through the samples, or through those that a checkpoint left; returns the mean of all their losses."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(x))
        part = self._part
        for start in range(part["samples"], len(x), batch_size):
            began = time.perf_counter()
            batch = order[start : start + batch_size]
            self.model.reseed(self.seed, epoch, start)
            # "clip" only keeps NumPy from a second copy: the indices are in range.
            rows = np.take(x, batch, axis=0, out=self._room("x", (len(batch), *x.shape[1:]), x.dtype), mode="clip")
            loss = self._step(rows, y[batch])
            if not math.isfinite(loss):
                number, steps = start // batch_size + 1, math.ceil(len(x) / batch_size)
                raise FloatingPointError(f"the loss is {loss} in epoch {epoch + 1}, batch {number} of {steps}:"
                                         f" {self._diverged()}")
            part["samples"] += len(batch)
            part["loss"] += loss * len(batch)
            part["seconds"] += time.perf_counter() - began
            report.batch(epoch, part["loss"] / part["samples"])
            if keeper.due():
                self._check_weights(epoch)
                keeper.save()
        self._check_weights(epoch)
        return part["loss"] / len(x)

    def _check_weights(self, epoch):
        """Raise FloatingPointError unless the weights are finite: no loss has seen the last step yet."""
        for name, weight in self.model.parameters():
            if not (math.isfinite(weight.min()) and math.isfinite(weight.max())):
                raise FloatingPointError(f"{name} is not finite after epoch {epoch + 1}: {self._diverged()}")

    def _step(self, x, y):
        """Train on one batch; returns its loss, and moves no weight if that is not finite."""
        # An overflow shows in the loss, for which `fit` has a better message than NumPy's warning.
        with np.errstate(over="ignore", invalid="ignore"):
            prediction = self.model.forward(x, training=True)
            loss, gradient = self.loss.value_and_grad(prediction, y)
            if math.isfinite(loss):
                # A subclass of the model may do more with the gradients, too.
                if takes_late_gradients(self.optimizer) and check.keeps(self.model, Sequential, "backward", "gradients"):
                    self.model.backward_late(gradient)
                    self.optimizer.step(self.model.parameters(), self.model.late_gradients())
                else:
                    self.model.backward(gradient, input_gradient=False)
                    self.optimizer.step(self.model.parameters(), self.model.gradients())
        return loss

    def _validate(self, validation_data, epoch, batch_size):
        if validation_data is None:
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            loss = self.evaluate(*validation_data, batch_size)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the validation loss is {loss} after epoch {epoch + 1}: {self._diverged()}")
        return loss

    def _diverged(self):
        return f"the training diverged under {self.optimizer!r} (try a smaller lr), or the data hold nan or inf"

    def _data(self, x, y, where=""):
        """x and y as arrays that fit the model and the loss; `where` is put before their names in messages."""
        x = check.samples(f"{where}x", x, self.model.input_shape)
        y = check.numbers_array(f"{where}y", y)
        if len(x) == 0:
            raise ValueError(f"{where}x has no samples: its shape is {x.shape}")
        if y.ndim == 0 or len(y) != len(x):
            raise ValueError(f"{where}x has {len(x)} samples, but {where}y has {len(y) if y.ndim else 'no axis'}")
        return x, self.loss.check((len(x), *self.model.output_shape), y, f"{where}y")

    def _validation(self, pair):
        if not isinstance(pair, (tuple, list)):
            raise TypeError(f"validation_data must be a pair (x, y), but is of type {type(pair).__name__}")
        if len(pair) != 2:
            raise ValueError(f"validation_data must be a pair (x, y), but has {len(pair)} entries")
        return self._data(*pair, where="validation ")

    def _settings(self, batch_size, samples):
        """What must be the same when a run is resumed, for the numbers to be the same."""
        layers = {f"layer {i}": repr(layer) for i, layer in enumerate(self.model.layers)}
        return layers | {
            "input_shape": str(self.model.input_shape),
            "dtype": self.model.dtype.name,
            "loss": repr(self.loss),
            "optimizer": repr(self.optimizer),
            "seed": self.seed,
            "trace": list(self.trace),
            "batch_size": batch_size,
            "samples": samples,
        }

    def get_state(self):
        """All that training depends on and has brought so far, as `save_checkpoint` takes it.

        Returns
        -------
        arrays : dict of str to ndarray
            Weights (not copied), the optimizer's state, and the trace.
        facts : dict
            History, number of steps, how far the epoch under way is, and `processes`.
        """
        state = self.optimizer.get_state()
        facts = {"history": self.history, "part": self._part, "processes": self.processes, "steps": state.pop("steps")}
        arrays = {f"model.{name}": array for name, array in self.model.parameters()}
        arrays |= {f"optimizer.{name}": array for name, array in state.items()}
        arrays |= {f"trace.{name}": np.array(self.trace[name], array.dtype).reshape(-1, *array.shape)
                   for name, array in self.model.parameters() if name in self.trace}
        return arrays, facts

    def set_state(self, arrays, facts):
        """Go on from a state as `get_state` gives it (the arrays are copied).

        Raises
        ------
        ValueError
            If it is not the state of a trainer of such a model and optimizer; then nothing is changed.
        """
        history = _checked_history(facts.get("history"))
        part = _checked_part(facts.get("part"))
        processes = _checked_processes(facts)
        steps = check.whole("steps", facts.get("steps"), least=0)
        weights = {f"model.{name}": array for name, array in self.model.parameters()}
        state = {f"optimizer.{name}.{slot}": array
                 for name, array in self.model.parameters() for slot in self.optimizer.slots if steps}
        done = len(history["train_loss"])
        trace = {f"trace.{name}": np.broadcast_to(array, (done, *array.shape))
                 for name, array in self.model.parameters() if name in self.trace}
        _same_arrays(arrays, weights | state | trace)

        self.optimizer.set_state({"steps": steps} | {name.removeprefix("optimizer."): arrays[name] for name in state})
        self.model.set_weights([arrays[name] for name in weights])
        self.history = {key: list(values) for key, values in history.items()}
        self.trace = {name: list(np.array(arrays[f"trace.{name}"])) for name in self.trace}
        self._part = part
        self.processes = processes

    def _number_of_processes(self):
        return 1

    def _save(self, path, settings):
        arrays, facts = self.get_state()
        save_checkpoint(path, arrays, facts | {"settings": settings}, previous=previous(path))

    def _restore(self, path, settings, epochs):
        """Take over the state of a checkpoint; first everything is checked, then everything is changed."""
        arrays, facts, found = load_last_good(path)
        try:
            history, part = _checked_history(facts.get("history")), _checked_part(facts.get("part"))
            _same_settings(facts.get("settings"), settings)
            done = len(history["train_loss"])
            if done > epochs or (done == epochs and part["samples"]):
                also = " and a part of the next" if part["samples"] else ""
                raise ValueError(f"it has {done} epochs{also} already, more than epochs = {epochs}")
            self.set_state(arrays, facts)
        except (TypeError, ValueError) as error:
            raise ValueError(f"cannot resume from {found}: {error}") from None
        if found != path:
            os.replace(found, path)  # lest the damaged one became the one before the next
        before, now = self.processes[-1:], self._number_of_processes()
        if done < epochs and before not in ([], [now]):
            warnings.warn(f"{path} is of a run with {_counted(*before)}, which goes on with {_counted(now)}: the numbers are"
                          " those of an unbroken run only to rounding", RuntimeWarning, stacklevel=3)


class _Keeper:
    """Writes the checkpoint, and knows when the next is due."""

    def __init__(self, write, seconds):
        self._write = write
        self._seconds = math.inf if seconds is None or write is None else seconds
        self._saved = self._asked = time.perf_counter()
        self._longest = 0.0  # time between two questions

    def due(self):
        """Whether the checkpoint might be too old when this is asked the next time."""
        now = time.perf_counter()
        self._longest = max(self._longest, now - self._asked)
        self._asked = now
        return now - self._saved + self._longest > self._seconds

    def save(self):
        if self._write is not None:
            self._write()
        self._saved = self._asked = time.perf_counter()


def _has_methods(name, value, methods, example):
    missing = [method for method in methods if not callable(getattr(value, method, None))]
    if missing or isinstance(value, type):
        raise TypeError(f"{name} must be an object such as {example}, but is {value!r}")


def _checkpoint_path(path):
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"checkpoint must be a file, but {path} is a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"checkpoint cannot be written: there is no folder {path.parent}")
    return path


def _checked_history(history):
    if not isinstance(history, dict) or sorted(history) != sorted(HISTORY):
        raise ValueError("it holds no history of a Trainer")
    for key in HISTORY:
        values = history[key]
        if not isinstance(values, list) or len(values) != len(history["train_loss"]):
            raise ValueError(f"its history {key!r} does not have one entry per epoch")
        for value in values:
            if not (isinstance(value, float) or (value is None and key == "val_loss")):
                raise ValueError(f"its history {key!r} has the entry {value!r}")
    return history


def _checked_part(part):
    if not isinstance(part, dict) or sorted(part) != sorted(_NOTHING):
        raise ValueError(f"what it says of the epoch under way is {part!r}")
    samples = check.whole("samples of the epoch under way", part["samples"], least=0)
    loss, seconds = (check.real(f"{key} of the epoch under way", part[key]) for key in ("loss", "seconds"))
    return {"samples": samples, "loss": loss, "seconds": seconds}


def _checked_processes(facts):
    processes = facts.get("processes", [1])  # older files do not say it
    if not isinstance(processes, list):
        raise ValueError(f"what it says of processes is {processes!r}")
    return [check.whole("number of processes", number) for number in processes]


def _counted(number):
    return f"{number} worker processes" if number > 1 else "one process"


def _checked_trace(trace, model):
    names = [name for name, _ in model.parameters()]
    if not isinstance(trace, (tuple, list)):
        raise TypeError(f"trace must be a tuple of names of weights, but is {trace!r}")
    for name in trace:
        if name not in names:
            raise ValueError(f"trace names {name!r}, but the weights of the model are {', '.join(names)}")
    return tuple(dict.fromkeys(trace))


def _same_settings(saved, settings):
    if not isinstance(saved, dict):
        raise ValueError("it holds no settings of a Trainer")
    different = [key for key in {**settings, **saved} if saved.get(key) != settings.get(key)]
    if different:
        was = ", ".join(f"{key} = {saved.get(key)}" for key in different)
        now = ", ".join(f"{key} = {settings.get(key)}" for key in different)
        raise ValueError(f"it was made with {was}, but this run has {now}")


def _same_arrays(saved, needed):
    if sorted(saved) != sorted(needed):
        raise ValueError(f"it holds the arrays {sorted(saved)}, but this run needs {sorted(needed)}")
    for name, array in needed.items():
        found = saved[name]
        if (found.shape, found.dtype) != (array.shape, array.dtype):
            raise ValueError(f"{name} is {found.shape} of {found.dtype}, but this run needs {array.shape}"
                             f" of {array.dtype}")
