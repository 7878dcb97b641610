"""How many threads a call may use: policy only; the pool itself is csrc/threads.c."""

import math
import os
from pathlib import Path

from im2colx import _core
from im2colx._core import MAX_THREADS
from im2colx._geometry import integer

VARIABLE = "IM2COLX_NUM_THREADS"


def available_cpus():
    """CPUs that this process may use: its affinity, and the quota of its control group, rounded up."""
    if hasattr(os, "sched_getaffinity"):
        cpus = len(os.sched_getaffinity(0))
    else:
        cpus = os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, cpus if quota is None else min(cpus, math.ceil(quota)))


def _cgroup_quota(root=Path("/sys/fs/cgroup"), membership=Path("/proc/self/cgroup")):
    """CPU quota of version 2 or 1 control groups, the smallest on the path to the root; None if there is none."""
    quotas = map(_quota_of, control_groups("cpu", root, membership))
    return min((quota for quota in quotas if quota is not None), default=None)


def control_groups(controller, root=Path("/sys/fs/cgroup"), membership=Path("/proc/self/cgroup")):
    """The folders of this process's control groups that may limit what `controller` names ("cpu", "memory")."""
    try:
        lines = membership.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        if line.count(":") < 2:
            continue
        number, controllers, path = line.split(":", 2)
        folder = root if number == "0" else root / controllers
        if number != "0" and controller not in controllers.split(","):
            continue
        # Inside a container the path may be the host's; what can be seen of it is what counts.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            yield folder.joinpath(*parts[:depth])


def _quota_of(folder):
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        return float(quota) / float(period) if quota != "max" and float(quota) > 0 else None
    except (OSError, ValueError):
        return None


def _initial():
    text = os.environ.get(VARIABLE)
    if text is None:
        return min(available_cpus(), MAX_THREADS)
    try:
        return integer(VARIABLE, int(text), most=MAX_THREADS)
    except ValueError:
        raise ValueError(f"the environment's {VARIABLE} is {text!r}, but must be an integer from 1 to {MAX_THREADS}") from None


_core.set_default_threads(_initial())


def set_num_threads(n):
    """Set how many threads a call uses when it is not told by its ``threads`` argument.

    Parameters
    ----------
    n : int
        From 1 to 256.  More than the CPUs that this process may use brings nothing.

    Raises
    ------
    TypeError, ValueError
        If `n` is not such an integer.

    See Also
    --------
    get_num_threads

    Notes
    -----
    At import it is the environment's ``IM2COLX_NUM_THREADS``, else the number of CPUs that this process may use
    (affinity and control group quota).

    Examples
    --------
    >>> import im2colx
    >>> before = im2colx.get_num_threads()
    >>> im2colx.set_num_threads(1)
    >>> im2colx.get_num_threads()
    1
    >>> im2colx.set_num_threads(before)
    """
    _core.set_default_threads(integer("n", n, most=MAX_THREADS))


def get_num_threads():
    """How many threads a call uses when it is not told by its ``threads`` argument.

    Returns
    -------
    int

    See Also
    --------
    set_num_threads

    Examples
    --------
    >>> import im2colx
    >>> im2colx.get_num_threads() >= 1
    True
    """
    return _core.default_threads()


def resolve_threads(threads):
    """The argument `threads` of a call as a number."""
    return get_num_threads() if threads is None else integer("threads", threads, most=MAX_THREADS)
