"""What `Trainer.fit` shows on stderr: a bar where tqdm is installed, else a line per epoch."""

import sys
import time


def reporter(show, label, done, epochs, steps):
    """The object that `fit` tells about its progress.

    Parameters
    ----------
    show : bool
        False for silence.
    label : str
        Put first on the line.
    done, epochs : int
        How many epochs are behind at the start, and how many there will be.
    steps : int
        Batches in an epoch.
    """
    if not show:
        return Silent()
    try:
        from tqdm import tqdm  # an optional extra
    except ImportError:
        return Lines(label, done, epochs)
    return Bar(tqdm, label, done, epochs, steps)


class Silent:
    def batch(self, epoch, loss):
        """A batch of `epoch` (0-based) is done; `loss` is the mean of the epoch so far."""

    def epoch(self, epoch, loss, val_loss):
        """The epoch is done; val_loss may be None."""

    def close(self):
        """The training is over, or was interrupted."""


class Lines(Silent):
    def __init__(self, label, done, epochs):
        self.label, self.done, self.epochs = label, done, epochs
        self.start = time.perf_counter()

    def epoch(self, epoch, loss, val_loss):
        seconds = (time.perf_counter() - self.start) / (epoch + 1 - self.done)
        left = seconds * (self.epochs - epoch - 1)
        print(f"{_where(self.label, epoch, self.epochs)}  {_losses(loss, val_loss)}  {seconds:.2f} s/epoch"
              f"  {left:.0f} s left", file=sys.stderr, flush=True)


class Bar(Silent):
    def __init__(self, tqdm, label, done, epochs, steps):
        self.label, self.epochs = label, epochs
        self.val_loss = None
        self.bar = tqdm(total=epochs * steps, initial=done * steps, desc=_where(label, done, epochs), file=sys.stderr,
                        dynamic_ncols=True, bar_format="{desc} |{bar}| {percentage:3.0f}%{postfix}, {remaining} left")

    def batch(self, epoch, loss):
        self.bar.set_description_str(_where(self.label, epoch, self.epochs), refresh=False)
        self.bar.set_postfix_str(_losses(loss, self.val_loss), refresh=False)
        self.bar.update()

    def epoch(self, epoch, loss, val_loss):
        self.val_loss = val_loss
        self.bar.set_postfix_str(_losses(loss, val_loss))

    def close(self):
        self.bar.close()


def _where(label, epoch, epochs):
    return f"{label}{': ' if label else ''}epoch {min(epoch + 1, epochs)}/{epochs}"


def _losses(loss, val_loss):
    return f"loss {loss:.6f}" + ("" if val_loss is None else f", val loss {val_loss:.6f}")
