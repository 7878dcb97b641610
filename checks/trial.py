"""One call tried: run, compared, timed, and made smaller if it fails."""

import re
import time
import traceback

import numpy as np
from arrays import Laid, on_a_line

HANG = 1.0  # seconds of a legal call
REFUSAL = 0.05  # of an illegal one
DOCUMENTED = (ValueError, TypeError, OverflowError, MemoryError, IndexError)
PLANNING_THREADS = (1, 2, 3, 4, 5, 6, 7, 8)  # each plans anew


class Trial:
    """How calls are tried.

    Parameters
    ----------
    place : callable
        Gives memory for arrays: see `arrays.build`.
    after : callable
        Called behind each call, when its arrays may go.
    run : callable
        run(call) runs a call that is ready.
    planning_ms : float
        The bar of planning.
    slower : float
        By how much the machine may be slower: under a sanitizer.
    """

    def __init__(self, place=on_a_line, after=lambda: None, run=lambda call: call(), planning_ms=1.0, slower=1.0):
        self._place, self._after, self._run = place, after, run
        self._planning, self._slower = planning_ms / 1000, slower

    def fault(self, call):
        """What is wrong with a call, or None."""
        try:
            return self._wrong(call)
        except Exception:  # a result that is so wrong that it cannot be compared, or a fault of the check
            return f"the check ended in {traceback.format_exc()[-1500:]}"

    def __call__(self, call):
        """(the smallest call alike as text, what is wrong with it), or None."""
        wrong = self.fault(call)
        if wrong is None:
            return None
        smaller, wrong = self._smaller(call, wrong)
        return smaller.text, wrong

    def _wrong(self, call):
        try:
            run, made = call.make(self._place)
            began = time.perf_counter()
            try:
                result, error = self._run(run), None
            except Exception as caught:
                result, error = None, caught
            seconds = time.perf_counter() - began
            if call.errors:
                wrong = self._wrong_refusal(call, result, error)
            elif error is not None:
                wrong = self._wrong_error(call, error)
            else:
                wrong = call.verdict(result, call.values, made)
            return wrong or _changed(made, bool(call.errors)) or self._too_slow(call, seconds)
        finally:
            self._after()

    def _wrong_refusal(self, call, result, error):
        if error is None:
            return f"must raise {_names(call.errors)}, but is {_shown(result)}"
        message = f"raised {type(error).__name__}: {error}"
        if not isinstance(error, call.errors):
            return f"must raise {_names(call.errors)}, but {message}"
        text = str(error)
        if not any(word in text for word in call.mentions):
            return f"must name {' or '.join(call.mentions)}, but {message}"
        if call.shows and not any(number in text for number in call.shows):
            return f"must show {' or '.join(call.shows)}, but {message}"
        return None

    def _wrong_error(self, call, error):
        text = str(error)
        if call.may_decline and isinstance(error, ValueError) and call.may_decline in text:
            return None
        if call.may_overflow and isinstance(error, OverflowError) and _may_overflow(call, text):
            return None
        return f"raised {type(error).__name__}: {text}"

    def _too_slow(self, call, seconds):
        bar = (REFUSAL if call.errors else self._planning if call.is_timed else HANG) * self._slower
        if seconds <= bar:
            return None
        least = seconds
        for threads in PLANNING_THREADS if call.is_timed else range(2):
            again = call.with_arguments(threads=threads) if call.is_timed and call.name != "output_shape" else call
            run, _ = again.make(self._place)
            began = time.perf_counter()
            try:
                run()
            except Exception:
                pass
            least = min(least, time.perf_counter() - began)
            if least <= bar:
                return None
        return f"took {least * 1000:.1f} ms, the least of several, and may take {bar * 1000:g}"

    def _smaller(self, call, wrong):
        """The call with what does not matter left out, while it still fails."""
        until = time.monotonic() + 3
        for simpler in _simpler(call):
            if time.monotonic() > until:
                break
            try:
                found = self._wrong(simpler(call))
            except Exception:  # a simpler call that cannot be asked
                continue
            if found and found.split()[:2] == wrong.split()[:2]:
                call, wrong = simpler(call), found
        return call, wrong


def _simpler(call):
    """Functions call → call, each with one thing less."""
    if "call" not in call.values or call.errors or call.name.endswith(" bits"):  # whose answer is of its own numbers
        return
    named = call.values["call"][1]
    for name in ("out", "bias", "workspace", "threads", "precision", "method", "dtype"):
        if name in named:
            yield lambda call, name=name: call.with_arguments(drop=(name,))
    places = [("call", name) for name in named] + [(name, None) for name in call.values if name != "call"]
    for change in (
        lambda laid: (
            Laid(laid.values, laid.dtype, steps=tuple(0 if size > 64 else 1 for size in laid.values.shape))
            if laid.values.constant and max(laid.values.shape) > 64
            else Laid(laid.values, laid.dtype)
        ),
        lambda laid: laid._replace(values=laid.values._replace(kind="ones")) if laid.values.kind != "blank" else laid,
    ):
        for where, name in places:
            value = named[name] if where == "call" else call.values[where]
            if isinstance(value, Laid):

                def simpler(call, where=where, name=name, change=change):
                    if where == "call":
                        return call.with_arguments(**{name: change(call.values["call"][1][name])})
                    return call.changed(**{where: change(call.values[where])})

                yield simpler


def _changed(made, with_out):
    for name, (_, memory, before) in made.items():
        if memory is not None and (name != "out" or with_out) and memory.tobytes() != before:
            return f"{name} was modified"
    return None


def _may_overflow(call, message):
    """Whether a result does not fit, or a number of an input; or the bound of the sums leaves the type that they have."""
    bound = re.search(r"may reach (\d+)", message)
    if bound:  # 128 bits for products, 64 for sums without factors
        return int(bound.group(1)) >= (2**63 if call.name in ("col2im", "PatchMatrix") else 2**126)
    named = call.values.get("call", (0, {}))[1]
    for value in (*named.values(), *call.values.values()):
        if isinstance(value, Laid) and value.values.kind == "extreme uint64":
            return True
    wanted = call.verdict.wanted(call.values)
    limits = np.iinfo(call.verdict.dtype(call.values))
    return bool(wanted.size) and (wanted.min() < limits.min or wanted.max() > limits.max)


def _names(errors):
    return " or ".join(error.__name__ for error in errors)


def _shown(result):
    text = " ".join(repr(result).split())
    return text if len(text) < 200 else f"{text[:200]}..."
