"""The pool: many callers, forks, signals, threads that cannot be had; and how many threads a call uses."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
from cases import methods

import im2colx
from im2colx import _blas, _core, _threads
from im2colx._geometry import resolve

# Large enough that every method takes as many threads as it is given.
X_SHAPE, W_SHAPE = (4, 32, 32, 32), (32, 32, 3, 3)


def run_python(code, timeout=60, **env):
    """Runs code in a fresh interpreter and returns what it printed."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **{name: str(value) for name, value in env.items()}},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def data(seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(-3, 4, X_SHAPE).astype("float32"), rng.integers(-3, 4, W_SHAPE).astype("float32")


@pytest.mark.parametrize("method", methods())
def test_many_python_threads_share_the_pool(method):
    """16 callers, different shapes, one shared w: every result is right, whoever has the pool."""
    _, w = data()
    inputs = [data(seed)[0][: 1 + seed % 3, :, : 12 + seed] for seed in range(16)]
    expected = [im2colx.conv2d(x, w, pad=1, method=method, threads=1) for x in inputs]
    wrong = []

    def work(number):
        for _ in range(5):
            y = im2colx.conv2d(inputs[number], w, pad=1, method=method, threads=1 + number % 4)
            if not np.array_equal(y, expected[number]):
                wrong.append(number)

    callers = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_the_loops_give_the_same_bits_for_any_threads():
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal(X_SHAPE).astype("f4"), rng.standard_normal(W_SHAPE).astype("f4")
    geometry = resolve(x.shape, w.shape, 1, 1, 1, 1, "NCHW")
    results = []
    for threads in (1, 2, 3, 8):
        y = np.empty(geometry.y_shape, "f4")
        _core.Problem(geometry, "forward", "f4", "loops", 0, threads).run(x, w, y)
        results.append(y.tobytes())
    assert len(set(results)) == 1


def test_fork_after_threads():
    """A parent that has used its pool forks; the child computes, and forks again; nobody hangs."""
    assert run_python("""
        import os, numpy as np, im2colx
        x, w = np.ones((4, 32, 32, 32), "f4"), np.ones((32, 32, 3, 3), "f4")
        def right():
            y = im2colx.conv2d(x, w, threads=8)
            im2colx.conv2d(x, w, threads=8, method="naive")
            return bool((y == 288).all())
        assert right()
        child = os.fork()
        if child == 0:
            ok = right()
            grandchild = os.fork()
            if grandchild == 0:
                os._exit(0 if right() else 1)
            ok &= os.waitpid(grandchild, 0)[1] == 0
            os._exit(0 if ok else 1)
        print(os.waitpid(child, 0)[1], right())
    """) == "0 True"  # fmt: skip


def test_fork_in_the_middle_of_a_call_of_another_thread():
    assert run_python("""
        import os, threading, numpy as np, im2colx
        x, w = np.ones((1, 32, 256, 256), "f4"), np.ones((32, 32, 3, 3), "f4")
        stop = False
        def work():
            while not stop:
                im2colx.conv2d(x, w, threads=2)
        worker = threading.Thread(target=work)
        worker.start()
        codes = []
        for _ in range(10):
            child = os.fork()
            if child == 0:
                os._exit(0 if (im2colx.conv2d(x, w, threads=2) == 288).all() else 1)
            codes.append(os.waitpid(child, 0)[1])
        stop = True
        worker.join()
        print(codes == [0] * 10)
    """) == "True"  # fmt: skip


def test_a_child_that_leaves_from_within_a_call_keeps_its_exception_and_blas_held():
    """A handler forks in mid-call and the child raises: that exception comes through, and BLAS can be held again."""
    assert run_python("""
        import os, signal, sys, numpy as np, im2colx
        x, w = np.ones((1, 64, 96, 96), "f4"), np.ones((64, 64, 3, 3), "f4")
        pids = []
        def fork(*_):
            pids.append(os.fork())
            if pids[-1] == 0:
                raise KeyError("child")
        signal.signal(signal.SIGALRM, fork)
        codes = []
        for method in ("naive", "indexed"):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            try:
                while not pids:
                    im2colx.conv2d(x, w, threads=2, method=method)
            except KeyError:
                right = all((im2colx.conv2d(x, w, threads=2, method="indexed")[:, :, 2:4] == 576).all() for _ in range(3))
                os._exit(7 if right else 1)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pids.pop(), 0)[1]))
        print(codes)
    """) == "[7, 7]"  # fmt: skip


def test_signals_that_go_on_after_the_first_exception():
    """Once a handler has raised, no other runs over the pending exception while the call winds down."""
    assert run_python("""
        import signal, numpy as np, im2colx
        x, w = np.ones((1, 128, 56, 56), "i1"), np.ones((256, 128, 3, 3), "i1")
        seen = []
        def handler(*_):
            seen.append(1)
            raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, handler)
        caught = 0
        for _ in range(10):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.03, 0.002)
                while True:
                    im2colx.conv2d(x, w, pad=1, method="indexed", threads=2)
            except KeyboardInterrupt:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except KeyboardInterrupt:
                    signal.setitimer(signal.ITIMER_REAL, 0)
                caught += 1
        print(caught)
    """) == "10"  # fmt: skip


def test_fork_inside_a_signal_handler_during_a_call():
    """The child of a handler that forks in mid-call has lost the workers: it gets an error, never a half result."""
    assert run_python("""
        import os, signal, numpy as np, im2colx
        x, w = np.ones((1, 64, 96, 96), "f4"), np.ones((64, 64, 3, 3), "f4")
        pids = []
        def fork(*_):
            pids.append(os.fork())
        signal.signal(signal.SIGALRM, fork)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            y = im2colx.conv2d(x, w, threads=2, method="naive")
            outcome = bool((y == 576).all())
        except RuntimeError as error:
            outcome = "forked" in str(error)
        if pids and pids[0] == 0:
            os._exit(0 if outcome and (im2colx.conv2d(x, w) == 576).all() else 1)
        print(outcome, os.waitpid(pids[0], 0)[1])
    """) == "True 0"  # fmt: skip


@pytest.mark.parametrize("method", methods())
def test_ctrl_c_within_200_ms(method):
    """SIGINT in a call of many seconds, for each operation: KeyboardInterrupt at once, and the next call is right."""
    code = """
        import os, signal, threading, time, numpy as np, im2colx
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell may have it ignored
        method = METHOD
        n = {"naive": 4}.get(method, 64)
        x, w = np.ones((n, 256, 56, 56), "f4"), np.ones((256, 256, 3, 3), "f4")
        y = np.ones((n, 256, 54, 54), "f4")
        calls = [lambda: im2colx.conv2d(x, w, method=method, out=y),
                 lambda: im2colx.conv2d_grad_input(y, w, x.shape, method=method, out=x),
                 lambda: im2colx.conv2d_grad_weight(x, y, w.shape, method=method, out=w)]
        if method == "im2col":  # a patch matrix of 1 GB is enough
            x, y = x[:4].copy(), y[:4].copy()
        worst = 0
        for call in calls:
            sent = []
            def send():
                sent.append(time.monotonic())
                os.kill(os.getpid(), signal.SIGINT)
            for delay in (0.02, 0.1):
                threading.Timer(delay, send).start()
                try:
                    while True:
                        call()
                except KeyboardInterrupt:
                    worst = max(worst, time.monotonic() - sent.pop())
        small = im2colx.conv2d(np.ones((2, 3, 8, 8)), np.ones((2, 3, 3, 3)), method=method)
        print(worst < 0.2, bool((small == 27).all()), worst)
    """
    printed = run_python(code.replace("METHOD", repr(method)))
    assert printed.startswith("True True"), printed


def test_ctrl_c_in_a_product_of_training():
    """A task of one second on the plainest instructions is left as soon, and a step as a product."""
    printed = run_python("""
        import os, signal, threading, time, numpy as np
        from im2colx import _core
        from im2colx.nn import _kernels as kernels
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _core.set_isa("scalar")
        a, b, c = np.ones((2048, 8000), "f4"), np.ones((8000, 512), "f4"), np.ones((2048, 512), "f4")
        worst = 0
        for call in (lambda: kernels.matmul(a, b, c),
                     lambda: kernels.step_along(kernels.Product(a, b, kernels.Room(), c.dtype), kernels.Pass("sgd", 1), [c])):
            sent = []
            def send():
                sent.append(time.monotonic())
                os.kill(os.getpid(), signal.SIGINT)
            threading.Timer(0.1, send).start()
            try:
                call()
            except KeyboardInterrupt:
                worst = max(worst, time.monotonic() - sent.pop())
            assert not sent
        kernels.matmul(a[:3, :5], b[:5], c[:3])
        print(worst < 0.2, bool((c[:3] == 5).all()), worst)
    """)
    assert printed.startswith("True True"), printed


def test_a_thousand_interrupts():
    """Signals at any moment: each is seen once, nothing breaks, and results stay right."""
    assert run_python("""
        import os, random, signal, numpy as np, im2colx
        x, w = np.ones((2, 16, 24, 24), "f4"), np.ones((16, 16, 3, 3), "f4")
        seen = 0
        def handler(*_):
            global seen
            seen += 1
            raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, handler)
        random.seed(0)
        sent = 0
        while sent < 1000:
            try:
                sent += 1
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 1e-3))
                while True:
                    im2colx.conv2d(x, w, threads=2, method=random.choice(["indexed", "im2col", "naive"]))
            except KeyboardInterrupt:
                pass
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(seen, bool((im2colx.conv2d(x, w, threads=2) == 144).all()))
    """) == "1000 True"  # fmt: skip


def test_threads_that_cannot_be_created():
    """Under a limit of processes, or of memory for stacks, a call runs on fewer threads."""
    assert run_python("""
        import resource, numpy as np, im2colx
        x, w = np.ones((4, 32, 32, 32), "f4"), np.ones((32, 32, 3, 3), "f4")
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[0])
        limit = pages * resource.getpagesize() + (24 << 20)  # one stack of 8 MiB at most, and the result
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        y = im2colx.conv2d(x, w, threads=200, method="naive")
        print(bool((y == 288).all()))
    """) == "True"  # fmt: skip


def test_a_workspace_that_cannot_be_had_is_a_memory_error_and_the_next_call_is_right():
    assert run_python("""
        import resource, numpy as np, im2colx
        x, w = np.ones((1, 64, 224, 224), "f4"), np.ones((4, 64, 3, 3), "f4")
        im2colx.conv2d(x, w, method="indexed")  # threads and buffers of BLAS exist: it hangs if it cannot have them
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[0])
        limit = pages * resource.getpagesize() + (60 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        failed = 0
        for _ in range(3):
            for call in (lambda: im2colx.conv2d(x, w, method="im2col"),
                         lambda: im2colx.conv2d_grad_input(np.ones((1, 4, 222, 222), "f4"), w, x.shape, method="im2col")):
                try:
                    call()
                except MemoryError:
                    failed += 1
        print(failed, bool((im2colx.conv2d(x, w, method="indexed") == 576).all()))
    """) == "6 True"  # fmt: skip


# ---- How many -------------------------------------------------------------------------------------------------------


def test_the_environment_sets_the_number():
    code = "import im2colx; print(im2colx.get_num_threads())"
    assert run_python(code, IM2COLX_NUM_THREADS=3) == "3"
    for wrong in ("0", "two", "-1", "1000", "1.5", ""):
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                                env={**os.environ, "IM2COLX_NUM_THREADS": wrong})  # fmt: skip
        assert result.returncode != 0
        assert f"IM2COLX_NUM_THREADS is {wrong!r}" in result.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this system")
def test_the_affinity_sets_the_number():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import im2colx; print(im2colx.get_num_threads())"
    env = {name: value for name, value in os.environ.items() if name != "IM2COLX_NUM_THREADS"}
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env).stdout.strip() == "1"


def test_set_num_threads():
    before = im2colx.get_num_threads()
    try:
        im2colx.set_num_threads(7)
        assert im2colx.get_num_threads() == 7 == im2colx.info()["threads"]["used"]
        x, w = data()
        plan = im2colx.plan_conv2d(x.shape, w, method="naive")
        assert "threads: 7" in plan.explain()
        assert "threads: 2" in im2colx.plan_conv2d(x.shape, w, method="naive", threads=2).explain()
    finally:
        im2colx.set_num_threads(before)


def test_cgroup_quotas(tmp_path):
    def quota(lines, files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        membership = tmp_path / "cgroup"
        membership.write_text(lines)
        return _threads._cgroup_quota(tmp_path / "fs", membership)

    assert quota("0::/\n", {}) is None
    assert quota("0::/a/b\n", {"fs/a/cpu.max": "150000 100000\n", "fs/a/b/cpu.max": "max 100000\n"}) == 1.5
    assert quota("0::/a/b\n", {"fs/cpu.max": "50000 100000\n"}) == 0.5
    files = {"fs/cpu,cpuacct/c/cpu.cfs_quota_us": "300000", "fs/cpu,cpuacct/c/cpu.cfs_period_us": "100000"}
    assert quota("4:cpu,cpuacct:/c\n3:memory:/c\n", files) == 3
    assert quota("4:cpu,cpuacct:/d\n", {"fs/cpu,cpuacct/d/cpu.cfs_quota_us": "-1", "fs/cpu,cpuacct/d/cpu.cfs_period_us": "1"}) is None
    assert _threads._cgroup_quota(tmp_path, tmp_path / "missing") is None
    (tmp_path / "odd").write_bytes(b"0::/\xff\n\nnonsense\n")
    assert _threads._cgroup_quota(tmp_path, tmp_path / "odd") is None
    assert 1 <= _threads.available_cpus() <= (os.cpu_count() or 1)


# ---- BLAS's threads -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not _blas.CONTROLS_THREADS, reason="this SciPy's BLAS cannot be told how many threads to use")
def test_blas_keeps_the_callers_setting():
    """During a call BLAS stays in our threads; afterwards its setting is what it was, also after an error."""
    threadpoolctl = pytest.importorskip("threadpoolctl")
    import scipy.linalg.cython_blas  # noqa: F401

    def setting():
        return [(lib["filepath"], lib["num_threads"]) for lib in threadpoolctl.threadpool_info()]

    x, w = data()
    before = setting()
    im2colx.conv2d(x, w, threads=2)
    assert setting() == before

    def interrupt(*_):
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        end = time.monotonic() + 30  # an interrupt that is lost fails the test, and does not hold it
        with pytest.raises(KeyboardInterrupt):
            while time.monotonic() < end:
                im2colx.conv2d(x, w, threads=2)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert setting() == before


def test_one_thread_means_one():
    """threads=1 uses one CPU, whatever BLAS would like."""
    x, w = (np.ones(shape, "f4") for shape in ((8, 128, 28, 28), (128, 128, 3, 3)))
    im2colx.conv2d(x, w, threads=1)
    wall, cpu, own = time.perf_counter(), time.process_time(), time.thread_time()
    for _ in range(20):
        im2colx.conv2d(x, w, threads=1)
    wall, cpu, own = time.perf_counter() - wall, time.process_time() - cpu, time.thread_time() - own
    assert cpu < 1.3 * own + 0.05
