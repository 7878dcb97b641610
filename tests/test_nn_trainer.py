"""The trainer: order of the batches, history, exact resume, what it refuses, what it shows."""

import builtins
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from im2colx import nn
from im2colx.nn import _progress
from im2colx.nn import trainer as trainer_module
from im2colx.nn.checkpoint import previous

OPTIMIZERS = {
    "sgd": lambda: nn.SGD(lr=0.1),
    "momentum": lambda: nn.SGD(lr=0.05, momentum=0.9),
    "adam": lambda: nn.Adam(lr=0.01),
}
X = np.random.default_rng(0).standard_normal((11, 5, 5, 1)).astype(np.float32)
Y = X[:, 1:4, 1:4].reshape(11, 9)


def make(optimizer="momentum", dtype="float32", model_seed=1, seed=14343, trace=()):
    model = nn.Sequential([nn.Conv2D(4, 2), nn.ReLU(), nn.Flatten(), nn.Dense(9)], input_shape=(5, 5, 1),
                          dtype=dtype, seed=model_seed)
    return nn.Trainer(model, nn.MSE(), OPTIMIZERS[optimizer](), seed=seed, trace=trace)


def fit(trainer, epochs=4, x=X, y=Y, batch_size=4, **options):
    return trainer.fit(x, y, epochs, batch_size, **{"progress": False} | options)


def state(trainer):
    """Everything that must be the same to the last bit."""
    optimizer = trainer.optimizer.get_state()
    return (
        [w.tobytes() for w in trainer.model.get_weights()],
        {name: np.asarray(value).tobytes() for name, value in optimizer.items()},
        trainer.history["train_loss"],
        trainer.history["val_loss"],
        {name: [copy.tobytes() for copy in copies] for name, copies in trainer.trace.items()},
    )


def test_training_lowers_the_loss_and_keeps_history():
    trainer = make()
    history = fit(trainer, 5, validation_data=(X[:3], Y[:3]))
    assert history is trainer.history and sorted(history) == ["epoch_seconds", "train_loss", "val_loss"]
    assert [len(values) for values in history.values()] == [5, 5, 5]
    assert history["train_loss"][-1] < 0.7 * history["train_loss"][0]
    assert history["val_loss"][-1] == trainer.evaluate(X[:3], Y[:3], 4)
    assert all(type(value) is float for values in history.values() for value in values)
    assert all(seconds > 0 for seconds in history["epoch_seconds"])
    assert fit(make(), 2)["val_loss"] == [None, None]


def test_the_order_of_the_batches_is_as_promised():
    seen = []

    class Spy(nn.MSE):
        def value_and_grad(self, prediction, target):
            seen.append(target.copy())
            return super().value_and_grad(prediction, target)

    trainer = nn.Trainer(make().model, Spy(), nn.SGD(), seed=7)
    fit(trainer, 2)
    fit(trainer, 1)  # goes on with epoch 2
    assert [len(batch) for batch in seen] == [4, 4, 3] * 3
    for epoch in range(3):
        order = np.random.default_rng([7, epoch]).permutation(11)
        assert np.array_equal(np.concatenate(seen[3 * epoch : 3 * epoch + 3]), Y[order])


def test_one_epoch_by_hand():
    trainer, twin = make("sgd", "float64"), make("sgd", "float64")
    fit(trainer, 1)
    order = np.random.default_rng([14343, 0]).permutation(11)
    losses = []
    for batch in (order[:4], order[4:8], order[8:]):
        prediction = twin.model.forward(X[batch], training=True)
        losses.append(np.mean((prediction - Y[batch]) ** 2))
        twin.model.backward(2 * (prediction - Y[batch]) / prediction.size)
        for (_, p), (_, g) in zip(twin.model.parameters(), twin.model.gradients(), strict=True):
            p -= 0.1 * g
    mean = (4 * losses[0] + 4 * losses[1] + 3 * losses[2]) / 11
    assert trainer.history["train_loss"] == [pytest.approx(mean, rel=1e-12)]
    for (name, p), (_, q) in zip(trainer.model.parameters(), twin.model.parameters(), strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-12, atol=1e-15, err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_dtype_stays_throughout(optimizer, dtype):
    trainer = make(optimizer, dtype)
    fit(trainer, 2, x=X.astype(np.float64), y=Y.astype(np.float64))
    arrays = [p for _, p in trainer.model.parameters() + trainer.model.gradients()]
    arrays += [array for name, array in trainer.optimizer.get_state().items() if name != "steps"]
    assert {array.dtype.name for array in arrays} == {dtype}


def test_evaluate_weighs_batches_by_their_samples():
    trainer = make(dtype="float64")
    expected = float(np.mean((trainer.model.forward(X) - Y) ** 2))
    for batch_size in (1, 4, 11, 100):
        assert trainer.evaluate(X, Y, batch_size) == pytest.approx(expected, rel=1e-12)


def test_classification_learns():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((60, 2))
    labels = (x[:, 0] > x[:, 1]).astype(np.int64)
    model = nn.Sequential([nn.Dense(2)], input_shape=(2,), dtype="float64")
    trainer = nn.Trainer(model, nn.SoftmaxCrossEntropy(), nn.Adam(lr=0.1))
    fit(trainer, 30, x, labels)
    assert np.mean(model.predict(x).argmax(axis=1) == labels) > 0.95


def interrupt_after(epochs):
    def callback(trainer):
        if len(trainer.history["train_loss"]) == epochs:
            raise KeyboardInterrupt
    return callback


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resume_is_exact_wherever_the_run_was_interrupted(optimizer, tmp_path):
    validation = (X[:5] + 1, Y[:5])
    unbroken = make(optimizer)
    fit(unbroken, 5, validation_data=validation)
    for epochs in range(1, 5):
        path = tmp_path / f"{epochs}.npz"
        with pytest.raises(KeyboardInterrupt):
            fit(make(optimizer), 5, validation_data=validation, checkpoint=path, callback=interrupt_after(epochs))
        resumed = make(optimizer, model_seed=99)  # nothing of its own weights may remain
        history = fit(resumed, 5, validation_data=validation, checkpoint=path, resume=True)
        assert state(resumed) == state(unbroken)
        assert history is resumed.history and len(history["epoch_seconds"]) == 5


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resume_after_an_interrupt_in_the_middle_of_an_epoch(optimizer, tmp_path):
    unbroken = make(optimizer)
    fit(unbroken, 4)
    broken = make(optimizer)
    step, calls = broken.optimizer.step, []

    def stop_in_epoch_3(parameters, gradients):
        step(parameters, gradients)
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt

    broken.optimizer.step = stop_in_epoch_3
    with pytest.raises(KeyboardInterrupt):
        fit(broken, 4, checkpoint=tmp_path / "c.npz")
    assert len(broken.history["train_loss"]) == 2
    resumed = make(optimizer, model_seed=99)
    fit(resumed, 4, checkpoint=tmp_path / "c.npz", resume=True)
    assert state(resumed) == state(unbroken)


def counted_steps(calls, stop=None):
    """`nn.Trainer._step`, noting its calls in a list, and stopping before the one of number `stop`, counted from 1."""
    step = nn.Trainer._step

    def counted(self, x, y):
        calls.append(len(x))
        if len(calls) == stop:
            raise KeyboardInterrupt
        return step(self, x, y)

    return counted


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resume_is_exact_from_any_batch(optimizer, tmp_path, monkeypatch):
    # Three batches to an epoch.  A checkpoint of any age is too old, so there is one after every batch.
    options = {"validation_data": (X[:5] + 1, Y[:5]), "checkpoint_every": 100, "checkpoint_seconds": 1e-9}
    unbroken = make(optimizer, trace=("0.weight", "3.bias"))
    fit(unbroken, 3, validation_data=options["validation_data"])
    assert [len(copies) for copies in unbroken.trace.values()] == [3, 3]
    assert unbroken.trace["0.weight"][-1].tobytes() == unbroken.model.get_weights()[0].tobytes()
    for number in range(2, 10):
        path = tmp_path / f"{number}.npz"
        with monkeypatch.context() as patch:
            patch.setattr(nn.Trainer, "_step", counted_steps([], stop=number))
            with pytest.raises(KeyboardInterrupt):
                fit(make(optimizer, trace=("0.weight", "3.bias")), 3, checkpoint=path, **options)
        part = nn.load_checkpoint(path)[1]["part"]
        assert part["samples"] == 4 * ((number - 1) % 3) and (part["seconds"] > 0) == (part["samples"] > 0)
        resumed = make(optimizer, model_seed=99, trace=("0.weight", "3.bias"))
        with monkeypatch.context() as patch:
            patch.setattr(nn.Trainer, "_step", counted_steps(calls := []))
            fit(resumed, 3, checkpoint=path, resume=True, **options)
        assert state(resumed) == state(unbroken)
        assert len(resumed.history["epoch_seconds"]) == 3
        assert calls == ([4, 4, 3] * 3)[number - 1 :]  # no batch is trained on twice


def test_without_a_resume_an_unfinished_epoch_begins_anew(monkeypatch):
    trainer = make()
    with monkeypatch.context() as patch:
        patch.setattr(nn.Trainer, "_step", counted_steps([], stop=5))
        with pytest.raises(KeyboardInterrupt):
            fit(trainer, 3)
        patch.setattr(nn.Trainer, "_step", counted_steps(calls := []))
        fit(trainer, 1)
    assert calls == [4, 4, 3] and len(trainer.history["train_loss"]) == 2


def test_an_epoch_in_two_pieces_has_the_seconds_of_both(tmp_path, monkeypatch):
    ticks = iter(range(10**6))
    monkeypatch.setattr(trainer_module, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    path = tmp_path / "c.npz"
    with monkeypatch.context() as patch:
        patch.setattr(nn.Trainer, "_step", counted_steps([], stop=6))
        with pytest.raises(KeyboardInterrupt):
            fit(make(), 3, checkpoint=path, checkpoint_seconds=1)
    # Between the two looks at the clock around a batch it moves on by one.
    assert nn.load_checkpoint(path)[1]["part"]["seconds"] == 2
    assert fit(make(), 3, checkpoint=path, resume=True)["epoch_seconds"] == [3, 3, 3]


@pytest.mark.parametrize("seconds", [3, 10, 31])
def test_no_checkpoint_becomes_older_than_asked(seconds, tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(trainer_module, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    step, save = nn.Trainer._step, trainer_module.save_checkpoint
    saved = [0.0]

    def slow_step(self, x, y):
        clock.now += 1.5
        return step(self, x, y)

    def slow_save(*arguments, **options):
        save(*arguments, **options)
        assert clock.now - saved[-1] <= seconds
        clock.now += 7  # a slow disk takes nothing from the time in which there is work to lose
        saved.append(clock.now)

    monkeypatch.setattr(nn.Trainer, "_step", slow_step)
    monkeypatch.setattr(trainer_module, "save_checkpoint", slow_save)
    fit(make(), 12, checkpoint=tmp_path / "c.npz", checkpoint_every=100, checkpoint_seconds=seconds)
    # 36 batches, and no more checkpoints than needed beside the last
    assert 36 // (seconds // 1.5) <= len(saved) - 1 <= 36 // (seconds // 1.5) + 1


def test_a_damaged_checkpoint_is_replaced_by_the_one_before_it(tmp_path):
    path = tmp_path / "c.npz"
    unbroken = make()
    fit(unbroken, 5)
    for damage in (lambda data: data[:-1], lambda data: data[:200] + b"?" + data[201:], lambda data: b""):
        with pytest.raises(KeyboardInterrupt):
            fit(make(), 5, checkpoint=path, callback=interrupt_after(3))
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(KeyboardInterrupt), pytest.warns(RuntimeWarning, match="going on from the checkpoint before"):
            fit(make(model_seed=99), 5, checkpoint=path, resume=True, callback=interrupt_after(3))
        # The damaged one is gone: it must not be the one before when the next is lost.
        assert [len(nn.load_checkpoint(file)[1]["history"]["val_loss"]) for file in (path, previous(path))] == [3, 2]
        resumed = make(model_seed=99)
        fit(resumed, 5, checkpoint=path, resume=True)
        assert state(resumed) == state(unbroken)


def test_a_lost_checkpoint_is_replaced_by_the_one_before_it(tmp_path):
    # Where the file system has no hard links, a kill between two renames leaves only the one before.
    path = tmp_path / "c.npz"
    unbroken, resumed = make(), make(model_seed=99)
    fit(unbroken, 4)
    fit(make(), 3, checkpoint=path)
    path.unlink()
    with pytest.warns(RuntimeWarning, match="going on from the checkpoint before"):
        fit(resumed, 4, checkpoint=path, resume=True)
    assert state(resumed) == state(unbroken)


KILLED = """
import os, random, signal, sys, time
sys.path.insert(0, sys.argv[1])
import test_nn_trainer as here
path, rng, kills, parts = here.Path(sys.argv[2]), random.Random(3), 0, 0
here.fit(here.make("adam"), 1)  # what is slow the first time is not what shall be killed
while True:
    began = path.exists()
    parts += began and here.nn.load_checkpoint(path)[1]["part"]["samples"] > 0
    child = os.fork()
    if not child:
        trainer = here.make("adam", model_seed=99 if began else 1, trace=("0.weight",))
        here.fit(trainer, 60, checkpoint=path, resume=True, checkpoint_every=100, checkpoint_seconds=1e-9)
        os._exit(0)
    time.sleep(rng.uniform(0, 0.15))
    os.kill(child, signal.SIGKILL)
    if os.waitpid(child, 0)[1] == 0:
        break
    kills += 1
    if kills > 1000:
        sys.exit("it does not get on")
print(kills, parts)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX processes")
def test_kills_at_random_moments_change_no_bit(tmp_path):
    path = tmp_path / "c.npz"
    run = subprocess.run([sys.executable, "-c", KILLED, str(Path(__file__).parent), path], capture_output=True, text=True,
                         timeout=120)
    assert run.returncode == 0, run.stderr
    kills, parts = map(int, run.stdout.split())
    assert kills >= 3 and parts >= 1  # how many it takes depends on the machine; and some within an epoch
    unbroken, resumed = (make("adam", model_seed=seed, trace=("0.weight",)) for seed in (1, 99))
    fit(unbroken, 60)
    fit(resumed, 60, checkpoint=path, resume=True)
    assert state(resumed) == state(unbroken)
    assert len(resumed.history["epoch_seconds"]) == 60 and min(resumed.history["epoch_seconds"]) > 0


def test_resume_with_more_epochs_with_all_and_with_fewer(tmp_path):
    path = tmp_path / "c.npz"
    fit(make(), 3, checkpoint=path)
    unbroken = make()
    fit(unbroken, 5)

    done = make(model_seed=99)
    content = path.read_bytes()
    assert len(fit(done, 3, checkpoint=path, resume=True)["train_loss"]) == 3
    assert path.read_bytes() == content
    assert state(done)[2] == unbroken.history["train_loss"][:3]

    fewer = make(model_seed=99)
    before = state(fewer)
    with pytest.raises(ValueError, match=r"cannot resume from .*c.npz: it has 3 epochs already, more than epochs = 2"):
        fit(fewer, 2, checkpoint=path, resume=True)
    assert state(fewer) == before

    more = make(model_seed=99)
    fit(more, 5, checkpoint=path, resume=True)
    assert state(more) == state(unbroken)


def test_a_checkpoint_within_the_epoch_after_the_last_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "c.npz"
    with monkeypatch.context() as patch:
        patch.setattr(nn.Trainer, "_step", counted_steps([], stop=9))
        with pytest.raises(KeyboardInterrupt):
            fit(make(), 5, checkpoint=path, checkpoint_seconds=1e-9)
    with pytest.raises(ValueError, match="it has 2 epochs and a part of the next already, more than epochs = 2"):
        fit(make(), 2, checkpoint=path, resume=True)
    assert len(fit(make(), 3, checkpoint=path, resume=True)["val_loss"]) == 3


def test_resume_without_a_file_starts_afresh(tmp_path):
    unbroken, fresh = make(), make()
    fit(unbroken, 2)
    fit(fresh, 2, checkpoint=tmp_path / "c.npz", resume=True)
    assert state(fresh) == state(unbroken) and (tmp_path / "c.npz").exists()


def test_fitting_twice_adds_epochs():
    once, twice = make(), make()
    fit(once, 4)
    fit(twice, 1)
    fit(twice, 3)
    assert state(once) == state(twice)


def test_checkpoint_every(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(trainer_module, "save_checkpoint",
                        lambda path, arrays, facts, **_: saved.append(len(facts["history"]["train_loss"])))
    fit(make(), 7, checkpoint=tmp_path / "c.npz", checkpoint_every=3)
    assert saved == [3, 6, 7]


@pytest.mark.parametrize(("change", "message"), [
    (lambda: make("adam"), r"optimizer = SGD\(lr=0.05, momentum=0.9\), but this run has optimizer = Adam\(lr=0.01"),
    (lambda: make("sgd"), r"made with optimizer = SGD\(lr=0.05, momentum=0.9\), but .* optimizer = SGD\(lr=0.1, mom"),
    (lambda: make(dtype="float64"), "made with dtype = float32, but this run has dtype = float64"),
    (lambda: make(seed=5), "made with seed = 14343, but this run has seed = 5"),
    (lambda: make(trace=("0.bias",)), r"made with trace = \[\], but this run has trace = \['0.bias'\]"),
    (lambda: nn.Trainer(make().model, nn.SoftmaxCrossEntropy(), OPTIMIZERS["momentum"]()),
     r"made with loss = MSE\(\), but this run has loss = SoftmaxCrossEntropy\(\)"),
    (lambda: nn.Trainer(nn.Sequential([nn.Flatten(), nn.Dense(9)], input_shape=(5, 5, 1)), nn.MSE(),
                        OPTIMIZERS["momentum"]()), "layer 1 = ReLU.*but this run has layer 0 = Flatten"),
])
def test_a_checkpoint_of_another_run_is_refused_and_nothing_changes(change, message, tmp_path):
    path = tmp_path / "c.npz"
    fit(make(), 2, checkpoint=path)
    content = path.read_bytes()
    other = change()
    before = state(other)
    y = np.arange(11) % 9 if isinstance(other.loss, nn.SoftmaxCrossEntropy) else Y
    with pytest.raises(ValueError, match=f"cannot resume from .*c.npz: it was .*{message}"):
        fit(other, 4, y=y, checkpoint=path, resume=True)
    assert state(other) == before and path.read_bytes() == content


@pytest.mark.parametrize(("options", "message"), [
    ({"batch_size": 5}, "made with batch_size = 4, but this run has batch_size = 5"),
    ({"x": X[:10], "y": Y[:10]}, "made with samples = 11, but this run has samples = 10"),
])
def test_a_checkpoint_for_other_data_is_refused(options, message, tmp_path):
    fit(make(), 2, checkpoint=tmp_path / "c.npz")
    with pytest.raises(ValueError, match=f"cannot resume from .*c.npz: it was {message}"):
        fit(make(), 4, checkpoint=tmp_path / "c.npz", resume=True, **options)


def drop(name):
    return lambda arrays, facts: arrays.pop(name)


def put(name, value):
    return lambda arrays, facts: arrays.__setitem__(name, value)


def tell(key, value):
    return lambda arrays, facts: facts.__setitem__(key, value)


@pytest.mark.parametrize(("spoil", "message"), [
    (drop("model.0.weight"), r"it holds the arrays \['model.0.bias', 'model.3.bias', .*needs .*'model.0.weight'"),
    (put("extra", np.ones(3)), r"it holds the arrays \['extra'"),
    (put("model.0.bias", np.ones(3, np.float32)), r"0.bias is \(3,\) of float32, but this run needs \(4,\) of float32"),
    (put("optimizer.0.bias.velocity", np.ones(4)), r"is \(4,\) of float64, but this run needs \(4,\) of float32"),
    (tell("part", None), "what it says of the epoch under way is None"),
    (tell("part", {"samples": -1, "loss": 0.0, "seconds": 0.0}), "samples of the epoch under way must be at least 0"),
    (tell("part", {"samples": 4, "loss": "0", "seconds": 0.0}), "loss of the epoch under way must be a number"),
    (tell("steps", -1), "steps must be at least 0, but is -1"),
    (tell("steps", "many"), "steps must be a whole number"),
    (tell("processes", 2), "what it says of processes is 2"),
    (tell("processes", [1, 0]), "number of processes must be at least 1, but is 0"),
    (tell("settings", None), "it holds no settings of a Trainer"),
    (tell("history", None), "it holds no history of a Trainer"),
    (tell("history", {"train_loss": [1.0], "val_loss": [], "epoch_seconds": [1.0]}), "'val_loss' does not have one"),
    (tell("history", {"train_loss": ["1"], "val_loss": [None], "epoch_seconds": [1.0]}), "has the entry '1'"),
])
def test_a_checkpoint_with_wrong_contents_is_refused_and_nothing_changes(spoil, message, tmp_path):
    path = tmp_path / "c.npz"
    fit(make(), 2, checkpoint=path)
    arrays, facts = nn.load_checkpoint(path)
    spoil(arrays, facts)
    nn.save_checkpoint(path, arrays, facts)
    trainer = make(model_seed=99)
    fit(trainer, 1)
    before = state(trainer)
    with pytest.raises(ValueError, match=f"cannot resume from .*c.npz: .*{message}"):
        fit(trainer, 4, checkpoint=path, resume=True)
    assert state(trainer) == before


def test_a_damaged_checkpoint_is_refused_and_nothing_changes(tmp_path):
    path = tmp_path / "c.npz"
    fit(make(), 2, checkpoint=path)
    for file in (path, previous(path)):
        file.write_bytes(file.read_bytes()[:-1])
    trainer = make(model_seed=99)
    before = state(trainer)
    with pytest.raises(ValueError, match=r"c.npz \(\d+ bytes\) does not end"):
        fit(trainer, 4, checkpoint=path, resume=True)
    assert state(trainer) == before


def test_a_disk_that_is_full_stops_the_run_and_the_last_checkpoint_stays(tmp_path, monkeypatch):
    path = tmp_path / "c.npz"
    unbroken = make()
    fit(unbroken, 4)
    trainer = make()
    fit(trainer, 2, checkpoint=path)
    content = path.read_bytes()
    with monkeypatch.context() as patch:
        def full(*_, **__):
            raise OSError(28, "No space left on device")
        patch.setattr(np.lib.format, "write_array", full)
        with pytest.raises(OSError, match="No space left"):
            fit(trainer, 2, checkpoint=path)
    assert path.read_bytes() == content
    resumed = make()
    fit(resumed, 4, checkpoint=path, resume=True)
    assert state(resumed) == state(unbroken)


@pytest.mark.filterwarnings("error")
def test_divergence_names_epoch_and_batch():
    trainer = nn.Trainer(make().model, nn.MSE(), nn.SGD(lr=1e20))
    with pytest.raises(FloatingPointError, match=r"the loss is (inf|nan) in epoch 1, batch 2 of 3: .*SGD\(lr=1e\+20"):
        fit(trainer, 4)
    assert trainer.history["train_loss"] == []


@pytest.mark.filterwarnings("error")
def test_a_last_step_that_diverges_is_noticed_before_the_checkpoint(tmp_path):
    trainer = nn.Trainer(make().model, nn.MSE(), nn.SGD(lr=1e38))
    with pytest.raises(FloatingPointError, match=r"(0|3)\.(weight|bias) is not finite after epoch 1"):
        fit(trainer, 1, batch_size=11, y=Y * 1e3, checkpoint=tmp_path / "c.npz")
    assert not (tmp_path / "c.npz").exists()


@pytest.mark.filterwarnings("error")
def test_a_validation_loss_that_is_not_finite_stops_the_run():
    with pytest.raises(FloatingPointError, match="the validation loss is nan after epoch 1"):
        fit(make(), 2, validation_data=(X * np.nan, Y))


def test_nan_in_the_data_stops_before_any_weight_moves():
    trainer = make()
    before = state(trainer)
    with pytest.raises(FloatingPointError, match="the loss is nan in epoch 1, batch 1 of 1"):
        fit(trainer, 2, y=Y * np.nan, batch_size=11)
    assert state(trainer) == before


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"epochs": 1.5}, TypeError, "epochs must be a whole number, but is 1.5 of type float"),
    ({"epochs": 0}, ValueError, "epochs must be at least 1, but is 0"),
    ({"batch_size": 0}, ValueError, "batch_size must be at least 1, but is 0"),
    ({"batch_size": None}, TypeError, "batch_size must be a whole number, but is None"),
    ({"x": X[:10]}, ValueError, "x has 10 samples, but y has 11"),
    ({"x": X[:, 1:]}, ValueError, r"x has samples of shape \(4, 5, 1\), the model takes \(5, 5, 1\)"),
    ({"x": X[:0], "y": Y[:0]}, ValueError, r"x has no samples: its shape is \(0, 5, 5, 1\)"),
    ({"x": "abc"}, TypeError, "x must hold real numbers"),
    ({"y": Y[:, :8]}, ValueError, r"y has shape \(11, 8\), but the prediction has \(11, 9\)"),
    ({"y": 3.0}, ValueError, "x has 11 samples, but y has no axis"),
    ({"validation_data": X}, TypeError, "validation_data must be a pair"),
    ({"validation_data": (X,)}, ValueError, r"validation_data must be a pair \(x, y\), but has 1"),
    ({"validation_data": (X, Y[:9])}, ValueError, "validation x has 11 samples, but validation y has 9"),
    ({"validation_data": (X[:, 1:], Y)}, ValueError, "validation x has samples of shape"),
    ({"progress": "yes"}, TypeError, "progress must be True or False, but is 'yes'"),
    ({"resume": 1}, TypeError, "resume must be True or False, but is 1"),
    ({"resume": True}, ValueError, "resume=True needs a checkpoint"),
    ({"checkpoint": 5}, TypeError, "int"),
    ({"checkpoint": "."}, ValueError, "checkpoint must be a file, but . is a folder"),
    ({"checkpoint": "no/such/folder/c.npz"}, FileNotFoundError, "there is no folder no/such/folder"),
    ({"checkpoint": "c.npz", "checkpoint_every": 0}, ValueError, "checkpoint_every must be at least 1, but is 0"),
    ({"checkpoint": "c.npz", "checkpoint_seconds": 0}, ValueError, "checkpoint_seconds must be > 0 and finite, but is 0"),
    ({"checkpoint_seconds": "30"}, TypeError, "checkpoint_seconds must be a number"),
    ({"callback": 3}, TypeError, "callback must be a function, but is 3"),
    ({"label": None}, TypeError, "label must be a str, but is None"),
])
def test_bad_arguments_are_named_before_anything_is_done(options, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = make()
    before = state(trainer)
    with pytest.raises(error, match=message):
        fit(trainer, **options)
    assert state(trainer) == before and not list(tmp_path.iterdir())


def test_labels_out_of_range_are_refused_before_training():
    trainer = nn.Trainer(make().model, nn.SoftmaxCrossEntropy(), nn.SGD())
    with pytest.raises(ValueError, match="y has labels from 0 to 10, but the model has 9 classes"):
        fit(trainer, y=np.arange(11))


@pytest.mark.parametrize(("arguments", "error", "message"), [
    (("model", nn.MSE(), nn.SGD()), TypeError, "model must be a Sequential, but is 'model'"),
    ((None, "mse", nn.SGD()), TypeError, r"loss must be an object such as nn.MSE\(\), but is 'mse'"),
    ((None, nn.MSE, nn.SGD()), TypeError, r"loss must be an object such as nn.MSE\(\), but is <class"),
    ((None, nn.MSE(), nn.SGD), TypeError, r"optimizer must be an object such as nn.SGD\(\), but is <class"),
])
def test_bad_parts_are_named(arguments, error, message):
    model, *rest = arguments
    with pytest.raises(error, match=message):
        nn.Trainer(model or make().model, *rest)
    with pytest.raises(ValueError, match="seed must be at least 0, but is -1"):
        make(seed=-1)
    with pytest.raises(TypeError, match="trace must be a tuple of names of weights, but is '0.weight'"):
        make(trace="0.weight")
    with pytest.raises(ValueError, match="trace names '1.weight', but the weights of the model are 0.weight, 0.bias, 3.w"):
        make(trace=("1.weight",))


def test_the_display_is_told_of_everything_and_closed_even_by_an_interrupt(monkeypatch):
    told = []

    class Recorder:
        def __init__(self, *arguments):
            told.append(arguments)

        def batch(self, epoch, loss):
            told.append((epoch, loss))

        def epoch(self, epoch, loss, val_loss):
            told.append((epoch, loss, val_loss))

        def close(self):
            told.append("closed")

    monkeypatch.setattr(trainer_module, "reporter", lambda show, label, done, epochs, steps:
                        Recorder(show, label, done, epochs, steps))
    trainer = make()
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, 4, progress=True, label="CNN", validation_data=(X, Y), callback=interrupt_after(2))
    (loss, loss2), (val_loss, val_loss2) = trainer.history["train_loss"], trainer.history["val_loss"]
    assert told[0] == (True, "CNN", 0, 4, 3) and told[-1] == "closed"
    assert [call[0] for call in told[1:-1]] == [0, 0, 0, 0, 1, 1, 1, 1]
    # The last running mean of an epoch is its loss.
    assert told[3:5] == [(0, loss), (0, loss, val_loss)] and told[7:9] == [(1, loss2), (1, loss2, val_loss2)]
    assert told[1][1] == pytest.approx(make().evaluate(X, Y), rel=0.5)


def test_without_tqdm_there_is_a_line_per_epoch_on_stderr(capsys, monkeypatch):
    real_import = builtins.__import__

    def no_tqdm(name, *args, **kwargs):
        if name == "tqdm":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_tqdm)
    trainer = make()
    fit(trainer, 2, progress=True, label="CNN", validation_data=(X, Y))
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "" and len(lines) == 2
    for k, line in enumerate(lines):
        loss, val_loss = trainer.history["train_loss"][k], trainer.history["val_loss"][k]
        assert line.startswith(f"CNN: epoch {k + 1}/2  loss {loss:.6f}, val loss {val_loss:.6f}  ")


def test_the_time_left(capsys, monkeypatch):
    clock = iter([100.0, 110.0, 130.0])
    monkeypatch.setattr(_progress, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    lines = _progress.Lines("", done=2, epochs=7)
    lines.epoch(2, 0.5, None)
    lines.epoch(3, 0.25, None)
    assert capsys.readouterr().err.splitlines() == [
        "epoch 3/7  loss 0.500000  10.00 s/epoch  40 s left",
        "epoch 4/7  loss 0.250000  15.00 s/epoch  45 s left",
    ]


def test_the_bar_shows_the_last_validation_loss_during_the_next_epoch():
    shown = []

    class FakeTqdm:
        def __init__(self, **options):
            shown.append((options["desc"], options["initial"], options["total"]))

        def set_description_str(self, text, refresh):
            shown.append(text)

        def set_postfix_str(self, text, refresh=True):
            shown.append(text)

        def update(self):
            shown.append("+1")

    bar = _progress.Bar(FakeTqdm, "FC", done=1, epochs=3, steps=8)
    bar.batch(1, 0.5)
    bar.epoch(1, 0.5, 0.75)
    bar.batch(2, 0.25)
    assert shown == [
        ("FC: epoch 2/3", 8, 24), "FC: epoch 2/3", "loss 0.500000", "+1", "loss 0.500000, val loss 0.750000",
        "FC: epoch 3/3", "loss 0.250000, val loss 0.750000", "+1",
    ]


def test_with_tqdm_there_is_a_bar_on_stderr(capsys):
    pytest.importorskip("tqdm")
    trainer = make()
    fit(trainer, 2, progress=True, label="CNN", validation_data=(X, Y))
    out, err = capsys.readouterr()
    last = err.rstrip().split("\r")[-1]
    assert out == "" and "CNN: epoch 2/2" in last and "100%" in last and "left" in last
    assert f"loss {trainer.history['train_loss'][1]:.6f}, val loss {trainer.history['val_loss'][1]:.6f}" in last


def test_without_progress_nothing_is_shown(capsys):
    fit(make(), 2, progress=False)
    assert capsys.readouterr() == ("", "")


def test_the_callback_sees_every_epoch_after_its_checkpoint(tmp_path):
    seen = []
    path = tmp_path / "c.npz"

    def callback(trainer):
        epochs = len(trainer.history["train_loss"])
        seen.append((epochs, len(nn.load_checkpoint(path)[1]["history"]["train_loss"]), math.isfinite(epochs)))

    fit(make(), 3, checkpoint=path, callback=callback)
    assert seen == [(1, 1, True), (2, 2, True), (3, 3, True)]
