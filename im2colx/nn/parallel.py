"""Data-parallel training on the workers of a Dask cluster.

The process that trains keeps weights, optimizer, history and checkpoints, as `Trainer` does.  In every step it cuts the batch
in as many parts as there are workers.  Each gets the weights and its part, and answers with the loss of it and the gradients

    g_i = n_i / n * d(loss of part i)/d(weights),      n_i of the batch's n samples,

whose sum is the gradient of the whole batch, for a loss that is the mean over the samples.  They are added in the order of the
parts, so that equal runs have equal bits.  A worker that is lost takes nothing with it.
"""

import asyncio
import math
import pickle
from typing import NamedTuple

import numpy as np

from im2colx._extras import require_distributed

from . import _checks as check
from . import _kernels as kernels
from .layers import Layer
from .model import Sequential
from .optimizers import takes_late_gradients
from .trainer import Trainer

POLL = 0.5  # seconds between two questions whether the workers are still there
SETTLE = 0.3  # seconds that the scheduler has to notice what a failed transfer has noticed already


class ParallelTrainer(Trainer):
    """A `Trainer` whose steps are computed by the workers of a Dask cluster, on this machine or on many.

    It gives the losses of `Trainer` up to the rounding of a sum that is cut in parts, and equal bits for equal numbers of
    workers (of one kind of CPU).  Checkpoints are those of `Trainer`: either goes on from the other's, and with any number of
    workers; where that is another one, the resumed run is the same only to rounding, and a RuntimeWarning says so.

    In each step all weights travel to every worker, and back come the gradients: of a `Dense` layer's weight the two factors of
    the product, where they are smaller.  So it pays on many machines where the arithmetic of a part of the batch takes much
    longer than sending that: for large images and few weights.  On one machine `Trainer` has all CPUs already and is faster.
    On two cores an epoch of the paper's networks (1000 images, 68 MB of weights, in a step 136 MB there and 12 MB back) took
    0.96 s with two workers, 0.34 s without; one of a network with 0.9 MB of weights (512 images of 64 x 64 x 3, three
    `Conv2D`) 0.43 to 0.62 s with a worker on each core, 0.38 s with `Trainer` on both and 0.66 s on one.

    Parameters
    ----------
    model, loss, optimizer, seed, trace
        As in `Trainer`.  Every layer must treat each sample by itself, and the loss be a mean over the samples.  A layer
        that draws random numbers must have ``skip_samples``, as `Dropout` does, so that it draws what it would in one process.
        Model and loss are sent by pickle, once, and again when their repr has changed.
    client : distributed.Client
        Of `local_workers`, or of a cluster of your own, on whose machines im2colx is installed.  It is not closed.  All its
        workers at this moment are used, in the order of their names.
    timeout : float
        Seconds after which a step is given up that not all workers have answered.

    Attributes
    ----------
    workers : tuple of str
        The addresses of the workers.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value, there are no workers, or a layer draws without ``skip_samples``.
    ImportError
        If the package distributed is not installed.

    Notes
    -----
    `fit` raises a ConnectionError as soon as a worker is lost, or after `timeout` seconds without an answer.  The weights are
    then those after the last finished step, and so is the checkpoint, if there is one.  Go on with ``resume=True`` in a new
    trainer, with the workers that are left, or a plain `Trainer`.

    Examples
    --------
    Two processes on this machine:

    >>> import numpy as np
    >>> from im2colx import nn
    >>> x = np.linspace(-1, 1, 100)[:, np.newaxis]
    >>> model = nn.Sequential([nn.Dense(16), nn.ReLU(), nn.Dense(1)], input_shape=(1,))
    >>> with nn.local_workers(2) as client:  # doctest: +SKIP
    ...     trainer = nn.ParallelTrainer(model, nn.MSE(), nn.Adam(lr=0.01), client=client)
    ...     trainer.fit(x, x**2, epochs=50, batch_size=10, checkpoint="run.npz")

    Many machines: ``dask scheduler`` runs on one of them, ``dask worker tcp://SCHEDULER:8786 --nthreads 1`` on each.

    >>> from distributed import Client  # doctest: +SKIP
    >>> with Client("tcp://SCHEDULER:8786", direct_to_workers=True) as client:  # doctest: +SKIP
    ...     trainer = nn.ParallelTrainer(model, nn.MSE(), nn.Adam(lr=0.01), client=client, timeout=600)
    ...     trainer.fit(x, x**2, epochs=50, batch_size=10, checkpoint="run.npz", resume=True)
    """

    def __init__(self, model, loss, optimizer, *, client, seed=14343, trace=(), timeout=60):
        super().__init__(model, loss, optimizer, seed=seed, trace=trace)
        if not isinstance(client, require_distributed().Client) or client.asynchronous:
            raise TypeError(f"client must be a distributed.Client that is not asynchronous, but is {client!r}")
        if client.status != "running":
            raise ValueError(f"client must be connected to a cluster, but is {client.status}")
        self.timeout = check.real("timeout", timeout, positive=True)
        for i, layer in enumerate(model.layers):
            draws = type(layer).reseed is not Layer.reseed
            if draws and type(layer).skip_samples is Layer.skip_samples:
                raise TypeError(f"layer {i} ({type(layer).__name__}) draws random numbers, but has no skip_samples: on several"
                                " workers it would draw others than in one process")
        self.client = client
        self._names = _workers(client)
        self.workers = tuple(self._names)
        if not self.workers:
            raise ValueError("client has no workers")
        self._replicas = {}  # on each worker, once it has had something to do
        self._packed = self._packed_as = None  # what they are made from

    def _number_of_processes(self):
        return len(self.workers)

    def _train_epoch(self, x, y, epoch, batch_size, report, keeper):
        try:
            return super()._train_epoch(x, y, epoch, batch_size, report, keeper)
        except ConnectionError as error:
            self._check_weights(epoch)
            keeper.save()
            where = f"epoch {epoch + 1}, batch {self._part['samples'] // batch_size + 1} of {math.ceil(len(x) / batch_size)}"
            raise ConnectionError(f"{error}; that was in {where}, and all the batches before it are kept") from error

    def _step(self, x, y):
        # Where the trainer is, as it has told the model: layers draw from the same seeds.
        seeds = (self.seed, len(self.history["train_loss"]), self._part["samples"])
        weights = [array for _, array in self.model.parameters()]
        cuts = [len(x) * i // len(self.workers) for i in range(len(self.workers) + 1)]
        largest = max(map(int.__sub__, cuts[1:], cuts)) / len(x)
        jobs = {
            worker: _Job(weights, x[start:stop], y[start:stop], (stop - start) / len(x), largest, seeds, start)
            for worker, start, stop in zip(self.workers, cuts[:-1], cuts[1:], strict=True)
            if start < stop
        }
        losses, gradients = zip(*self._ask(jobs), strict=True)
        loss = sum(losses)
        if math.isfinite(loss):
            names = [name for name, _ in self.model.parameters()]
            merged = map(self._merge, names, zip(*gradients, strict=True))
            with np.errstate(over="ignore", invalid="ignore"):
                self.optimizer.step(self.model.parameters(), list(zip(names, merged, strict=True)))
        return loss

    def _merge(self, name, parts):
        """The gradient of one weight from those of the parts of the batch, each an array or the factors of one."""
        if not isinstance(parts[0], _Factors):
            total = kernels.copy(parts[0])
            for part in parts[1:]:
                total += part
            return total
        left, right = (self._join(f"{name}.{side}", [getattr(part, side) for part in parts]) for side in ("left", "right"))
        product = kernels.Product(left.T, right, self._room, self.model.dtype)
        return product if takes_late_gradients(self.optimizer) else product.into(kernels.empty(product.shape, product.dtype))

    def _join(self, name, arrays):
        rows = sum(map(len, arrays))
        return np.concatenate(arrays, out=self._room(name, (rows, arrays[0].shape[1]), arrays[0].dtype))

    def _ask(self, jobs):
        """What the workers answer to their jobs, in order; ConnectionError if one of them does not."""
        if self._packed_as != (what := (repr(self.model), repr(self.loss))):
            self._replicas, self._packed, self._packed_as = {}, self._pack(), what
        replicas, self._replicas = self._replicas, {}  # new ones after Ctrl-C, lest a step under way there meet the next
        failure = ""
        try:
            answers = self.client.sync(self._round, jobs, replicas)
        except Exception as error:  # of any type: ours, Dask's, its transport's, or from what a worker imports
            failure = str(error) if type(error) is ConnectionError else f"the workers fail: {type(error).__name__}: {error}"
        if failure:  # raised here, it does not keep alive all that was under way
            raise ConnectionError(failure)
        self._replicas = replicas
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def _pack(self):
        import cloudpickle  # comes with distributed; it packs also what a script or a notebook defines

        try:
            return cloudpickle.dumps((self.model, self.loss))
        except Exception as error:  # of any type, as the layers are
            raise TypeError(f"the model and the loss cannot be sent to the workers: {error}") from error

    async def _round(self, jobs, replicas):
        tasks = {asyncio.ensure_future(self._one(worker, job, replicas)): worker for worker, job in jobs.items()}
        try:
            await self._watch(tasks)
            return [task.result() for task in tasks]
        finally:
            for task in tasks:
                task.cancel()

    async def _one(self, worker, job, replicas):
        if worker not in replicas:
            replicas[worker] = self._submit(worker, _Replica, await self._send(worker, self._packed))
        answer = self._submit(worker, _answer, replicas[worker], await self._send(worker, job))
        return await self.client.gather(answer, asynchronous=True)

    def _submit(self, worker, *task):
        return self.client.submit(*task, workers=[worker], pure=False)

    async def _send(self, worker, value):
        [future] = await self.client.scatter([value], workers=[worker], hash=False, asynchronous=True)
        return future

    async def _watch(self, tasks):
        """Return when all tasks are done.  Dask waits for ever for what was lost with a worker, so ask for the workers too."""
        time = asyncio.get_running_loop().time
        end, waiting = time() + self.timeout, set(tasks)
        while waiting:
            if time() > end:
                silent = self._called(sorted(tasks[task] for task in waiting))
                raise ConnectionError(f"no answer from {silent} for {self.timeout:g} s: stopped, cut off, or too slow")
            done, waiting = await asyncio.wait(waiting, timeout=min(POLL, self.timeout), return_when=asyncio.FIRST_EXCEPTION)
            failed = [task.exception() for task in done if task.exception()]
            if failed:
                await asyncio.sleep(SETTLE)
            if failed or waiting:
                try:
                    alive = await asyncio.wait_for(self.client.nthreads(), self.timeout)
                except Exception as error:  # of any type, as in `_ask`
                    raise ConnectionError("the scheduler of the cluster does not answer") from error
                lost = [worker for worker in self.workers if worker not in alive]
                if lost:
                    raise ConnectionError(f"lost {self._called(lost)}: killed, out of memory, or cut off")
            if failed:
                raise failed[0]

    def _called(self, workers):
        return " and ".join(f"worker {self._names[worker]} ({worker})" for worker in workers)


class _Factors(NamedTuple):
    """The gradient ``left.T @ right`` of a weight, where that would be more to send."""

    left: np.ndarray
    right: np.ndarray


class _Job(NamedTuple):
    """What a worker has to know for its part of a batch."""

    weights: list
    x: np.ndarray
    y: np.ndarray
    share: float  # of the batch's samples
    largest: float  # the largest share
    seeds: tuple
    before: int  # samples of the batch that stand before the part


class _Replica:
    """The model as a worker has it, and what the worker does."""

    def __init__(self, packed):
        self.model, self.loss = pickle.loads(packed)
        for layer in self.model.layers:
            for name, value in vars(layer).items():
                if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                    vars(layer)[name] = kernels.copy(value)  # pickle puts it anywhere

    def gradients(self, job):
        """The part's contributions to the loss and to the gradients (None if the loss is not finite)."""
        self.model.set_weights(job.weights)
        self.model.reseed(*job.seeds)
        for layer in self.model.layers:
            layer.skip_samples(job.before)
        with np.errstate(over="ignore", invalid="ignore"):
            loss, gradient = self.loss.value_and_grad(self.model.forward(job.x, training=True), job.y)
            if not math.isfinite(loss):
                return loss, None
            gradient = gradient * job.share
            if check.keeps(self.model, Sequential, "backward", "gradients"):
                self.model.backward_late(gradient)
                gradients = self.model.late_gradients()
            else:  # a subclass may do more with them
                self.model.backward(gradient, input_gradient=False)
                gradients = self.model.gradients()
            return loss * job.share, [_smaller(g, job.largest / job.share) for _, g in gradients]


def _smaller(gradient, scale):
    """The gradient as it is sent; `scale` makes all workers choose alike, as the one with the largest part."""
    if not isinstance(gradient, kernels.Product):
        return gradient
    left, right = gradient.left.T, gradient.right
    if (left.size + right.size) * scale < math.prod(gradient.shape):
        return _Factors(left, right)
    return gradient.into(kernels.empty(gradient.shape, gradient.dtype))


def _answer(replica, job):
    """Runs on the worker.  An error of the model is an answer too, lest it look like one of the cluster."""
    try:
        return replica.gradients(job)
    except Exception as error:
        return error


def _workers(client):
    """The workers of a client: address to name, in an order that depends on the names where these differ."""
    found = client.scheduler_info(n_workers=-1)["workers"]
    names = {address: str(facts["name"]) for address, facts in found.items()}
    return dict(sorted(names.items(), key=lambda pair: (len(pair[1]), pair[1], pair[0])))
