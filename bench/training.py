"""Epochs of the paper's two networks through im2colx and PyTorch (`pip install torch==2.13.0`; without it im2colx alone).

    python bench/training.py [--threads 1 2] [--rounds 5] [--images 1000] [--data DIR]

Both begin with the same weights and see the same batches of 128 real digits, PyTorch with its fused optimizers.  Each has a
process of its own for each number of threads, and all take turns of three epochs, the first of which is not counted.  What is
printed is the median; the losses of the very first epoch are compared.

step     an epoch by its number of batches
traffic  what a step must read and write of the large weights (21632 x 784), their gradient and the optimizer's state, once
         for every pass over them, by the time of the step; activations (11 MB a batch and layer) are not counted
peak     share of the multiply-adds that the machine does in registers, on as many threads, measured before
"""

import argparse
import statistics
import sys
import time
from importlib import metadata, util
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from contest import Contender, bandwidth, peak_flops, serve

NETWORKS, OPTIMIZERS = ("cnn", "fc"), ("sgd", "adam")
LIBRARIES = ("im2colx", "torch")
TURN = 3  # epochs, of which the first is not counted: processors and threads wake up in it


def passes(library, optimizer):
    """How often a step goes over the memory of the large weights, reading or writing.

    Both read the weights forward and backward, and the step reads and writes them and the two means of Adam.  A gradient
    that is an array of its own is written once and read once; in im2colx each tile of it is used while it is in registers.
    """
    states = {"sgd": 1, "adam": 3}[optimizer]
    return 2 + 2 * states + (2 if library == "torch" else 0)


# ---- In a process of its own --------------------------------------------------------------------------------------------


class Ours:
    def __init__(self, network, optimizer, images, settings):
        from im2colx import nn
        from im2colx.experiments import paper

        model, cut = (paper.build_cnn, np.asarray) if network == "cnn" else (paper.build_fc, paper.patches)
        self._trainer = nn.Trainer(model(settings), nn.MSE(), paper.OPTIMIZERS[optimizer](), seed=settings.seed)
        self._data = cut(images), images, 1, paper.BATCH

    def epoch(self, number):
        return self._trainer.fit(*self._data, progress=False)["train_loss"][-1]


class Torch:
    def __init__(self, network, optimizer, images, settings):
        import torch

        from im2colx.experiments import paper

        filters, last = paper.build_cnn(settings).get_weights()  # (4, 4, 1, 128), (13 * 13 * 128, 784)
        self._target = torch.from_numpy(images.reshape(len(images), -1))
        if network == "cnn":  # channels first
            first = torch.nn.Conv2d(1, paper.FILTERS, paper.KERNEL, paper.STRIDE, bias=False)
            filters = filters.transpose(3, 2, 0, 1)
            last = last.reshape(paper.ROWS, paper.FILTERS, -1).transpose(1, 0, 2).reshape(last.shape)
            self._x = self._target.reshape(-1, 1, paper.SIDE, paper.SIDE)
        else:
            first = torch.nn.Linear(paper.PATCH, paper.FILTERS, bias=False)
            filters = filters.reshape(paper.PATCH, paper.FILTERS).T
            self._x = torch.from_numpy(paper.patches(images))
        dense = torch.nn.Linear(*last.shape, bias=False)
        for layer, weight in ((first, filters), (dense, last.T)):
            layer.weight.data = torch.from_numpy(np.ascontiguousarray(weight))
        self._model = torch.nn.Sequential(first, torch.nn.ReLU(), torch.nn.Flatten(), dense, torch.nn.ReLU())
        kind, rate = {"sgd": (torch.optim.SGD, 0.01), "adam": (torch.optim.Adam, 0.001)}[optimizer]
        self._optimizer = kind(self._model.parameters(), lr=rate, fused=True)
        self._loss, self._batch, self._seed = torch.nn.functional.mse_loss, paper.BATCH, settings.seed

    def epoch(self, number):
        order = np.random.default_rng([self._seed, number]).permutation(len(self._x))
        total = 0.0
        for start in range(0, len(order), self._batch):
            rows = order[start : start + self._batch]
            self._optimizer.zero_grad(set_to_none=True)
            loss = self._loss(self._model(self._x[rows]), self._target[rows])
            loss.backward()
            self._optimizer.step()
            total += loss.item() * len(rows)
        return total / len(order)


def work(library, threads, images, data):
    from im2colx import datasets, set_num_threads
    from im2colx.experiments import paper

    if library == "torch":
        import torch

        torch.set_num_threads(threads)
    set_num_threads(threads)
    settings = paper.Settings(images=images)
    chosen = paper.choose_images(datasets.load_mnist(data), settings).train
    trainings = {}

    def answer(network, optimizer, number):
        if (network, optimizer) not in trainings:
            kind = Torch if library == "torch" else Ours
            trainings[network, optimizer] = kind(network, optimizer, chosen, settings)
        seconds, losses = [], []
        for epoch in range(TURN * number, TURN * (number + 1)):
            start = time.perf_counter()
            losses.append(trainings[network, optimizer].epoch(epoch))
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds[1:], "loss": losses[0]}

    serve(answer)


# ---- The contest --------------------------------------------------------------------------------------------------------


def multiply_adds():
    """Of an image: both products of layer 1 (no gradient of the image), the three of layer 2."""
    from im2colx.experiments.paper import FILTERS, PATCH, ROWS, SIDE

    return ROWS * FILTERS * (2 * PATCH + 3 * SIDE * SIDE)


def compete(libraries, threads, rounds, images, data):
    """By (network, optimizer) and library: the seconds of every epoch that counts."""
    contenders = {name: Contender(__file__, name, threads, images, *([data] if data else [])) for name in libraries}
    found = {(network, optimizer): {name: [] for name in libraries} for network in NETWORKS for optimizer in OPTIMIZERS}
    for number in range(rounds):
        for (network, optimizer), answers in found.items():
            for name, contender in contenders.items():
                answers[name].append(contender.ask(network=network, optimizer=optimizer, number=number))
    for contender in contenders.values():
        contender.close()
    for (network, optimizer), answers in found.items():
        losses = [answers[name][0]["loss"] for name in libraries]  # later on Adam amplifies rounding
        # In the paper's Adam, as in Keras, the root's bias is corrected with epsilon added; in PyTorch's, before that.
        if not np.allclose(losses, losses[0], rtol={"sgd": 1e-5, "adam": 0.02}[optimizer]):
            raise AssertionError(f"not the same training: after an epoch of {network}, {optimizer} the losses are {losses}")
    return {key: {name: [second for answer in list_ for second in answer["seconds"]] for name, list_ in answers.items()}
            for key, answers in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default %(default)s)")
    parser.add_argument("--images", type=int, default=1000, help="of an epoch (default %(default)s)")
    parser.add_argument("--data", metavar="DIR", help="folder with the four MNIST files (default: as im2colx experiment)")
    args = parser.parse_args()

    import im2colx
    from im2colx.experiments.paper import BATCH, FILTERS, ROWS, SIDE

    libraries = [name for name in LIBRARIES if util.find_spec(name)]
    info = im2colx.info()
    versions = [f"im2colx {info['im2colx']}", *(f"{name} {metadata.version(name)}" for name in libraries[1:])]
    print(f"{info['cpu']['model']}, {info['cpu']['used']}; {', '.join(versions)}; NumPy {info['numpy']}")
    steps, nbytes = -(-args.images // BATCH), 4 * ROWS * FILTERS * SIDE * SIDE
    for threads in args.threads:
        speed, peak = bandwidth(threads), peak_flops(threads)[0]
        floor = 2 * multiply_adds() * args.images / steps / peak
        print(f"-- {threads} thread{'s' * (threads > 1)}: peak {peak / 1e9:.0f} GFLOP/s (a step's products {floor * 1e3:.0f} ms),"
              f" scaling an array {speed / 1e9:.0f} GB/s")
        ratios = []
        for (network, optimizer), measured in compete(libraries, threads, args.rounds, args.images, args.data).items():
            cells, seconds = [], {}
            for name in libraries:
                seconds[name] = statistics.median(measured[name])
                moved = passes(name, optimizer) * nbytes
                cells.append(f"{name} {seconds[name]:.3f} s, step {seconds[name] / steps * 1e3:5.1f} ms,"
                             f" traffic {moved / 1e6:.0f} MB {moved * steps / seconds[name] / 1e9:4.1f} GB/s")
            share = floor * steps / seconds["im2colx"]
            line = f"{network:3} {optimizer:4}  {' | '.join(cells)} | {share:.0%} of peak"
            if "torch" in seconds:
                ratios.append(seconds["torch"] / seconds["im2colx"])
                line += f" | torch / im2colx {ratios[-1]:.2f}"
            print(line, flush=True)
        if ratios:
            print(f"torch / im2colx: geometric mean {np.exp(np.mean(np.log(ratios))):.2f}, least {min(ratios):.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        library, threads, images, *data = sys.argv[2:]
        work(library, int(threads), int(images), *(data or [None]))
    else:
        main()
