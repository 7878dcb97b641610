"""What the numbers of the study show, in words that follow from the numbers."""

import numpy as np

from ..verdict import Verdict, in_epochs
from .study import CASES

# Rounding errors that only add up are at most twice as large after twice the epochs.  Beyond this something amplifies them.
AMPLIFIED = 3
FIRST = 3  # the epoch from which on growth is looked at: before, the first differences only appear

FINER = 2.0**29  # how much finer float64 is than float32

_DTYPES = {case.name: case.dtype for case in CASES}


def total(result, network):
    """The distance of all weights from those of the FC network, an array with an entry per epoch."""
    return np.hypot(*(result["distances"][network][layer] for layer in ("first", "last")))


def steepest(result, network):
    """Where the distance grew most while the number of epochs doubled.

    Returns
    -------
    growth : float
        The distance after 2 t epochs divided by that after t, for the t from `FIRST` on where this is greatest.
    epochs : int
        That t; 0 if there is none, and growth 1.
    """
    apart = total(result, network)
    # A distance below one unit in the last place of a weight of 0.25 to 0.5 is of few weights, if of more than one.
    least = np.finfo(_DTYPES[result["case"]]).eps / 4
    found = [(apart[2 * t - 1] / apart[t - 1], t) for t in range(FIRST, len(apart) // 2 + 1) if apart[t - 1] >= least]
    return max(found, default=(1.0, 0))


class Findings:
    """The results by case, and the few numbers about each that words and figures need.

    Parameters
    ----------
    results : list of dict
        Of `study.run`.
    images : int
        How many were trained on.
    """

    def __init__(self, results, images):
        self.images = images
        self.by_case = {case.name: [r for r in results if r["case"] == case.name] for case in CASES}
        self.seeds = len(next(iter(self.by_case.values())))
        self.epochs = max(r["epochs"] for r in results)

    def values(self, number, case, network="other"):
        """A number of every seed: `number` is a function of a result and a network."""
        return np.array([number(result, network) for result in self.by_case[case]], dtype=float)

    def distances(self, case, network="other"):
        """(seed, epoch): the distance of all weights."""
        return np.array([total(result, network) for result in self.by_case[case]])

    def end(self, case, network="other"):
        """The distance of all weights at the end, for every seed."""
        return self.distances(case, network)[:, -1]

    def growth(self, case, network="other"):
        """The steepest growth of the distance, for every seed."""
        return self.values(lambda *which: steepest(*which)[0], case, network)

    def doubling(self, case, network="other"):
        """The epochs in which the distance doubled where it grew most; inf where it did not grow."""
        growth, epochs = (self.values(lambda *which, i=i: steepest(*which)[i], case, network) for i in (0, 1))
        rises = np.log2(np.maximum(growth, 1))
        return np.divide(epochs, rises, out=np.full_like(epochs, np.inf), where=rises > 0)

    def stability(self, case):
        """Or None where it was not measured."""
        values = [result["stability"] for result in self.by_case[case]]
        return None if None in values else np.array(values)

    def amplified(self, case, network="other"):
        """Whether the distance grew more than errors that only add up, with most seeds."""
        return bool(np.median(self.growth(case, network)) > AMPLIFIED)

    def largest(self, network):
        """The largest distance of any weights between a network and FC in any epoch, in float32 under SGD and Adam."""
        return max(float(self.distances(case, network).max()) for case in ("sgd", "adam"))

    def bitwise(self):
        """Whether the network with the same products is equal in every weight and loss, with every seed."""
        return self.largest("same") == 0 and all(
            result["equal"]["same"] for case in ("sgd", "adam") for result in self.by_case[case]
        )


def in_seeds(count):
    """Return "1 seed", "5 seeds"."""
    return f"{count} seed{'s' if count != 1 else ''}"


def spread(values):
    """A median with the least and the greatest: "1.2e-5 (9e-6 to 2e-5)"."""
    middle, low, high = (short(of(values)) for of in (np.median, np.min, np.max))
    return middle if low == high else f"{middle} ({low} to {high})"


def short(value):
    """Two digits of a number: "0.012", "42", "5.4e8"."""
    mantissa, _, exponent = f"{value:.2g}".partition("e")
    if not exponent:
        return mantissa
    return f"{float(mantissa) * 10 ** int(exponent):.0f}" if 0 < int(exponent) < 4 else f"{mantissa}e{int(exponent)}"


def answer(found):
    """The answer in a few plain sentences."""
    if not found.bitwise():
        return "This run cannot tell: the same products did not round alike."
    text = "It is rounding: where both networks compute the same products, they stay equal to the last bit. "
    if not found.amplified("adam"):
        return text + "In this run nothing amplifies it; the curves do not part."
    text += "Training with Adam amplifies it, as training with SGD at the paper’s rate "
    text += "does too. " if found.amplified("sgd") else "does not. "
    fast, slow = found.amplified("fast"), found.amplified("slow")
    if fast and not slow:
        text += (
            "Not because Adam adapts its rates, though, but because its steps are large for this network: SGD with steps a "
            "hundred times as large parts as well, without adaptive rates, and Adam with a tenth of its steps does not."
        )
    elif slow and not fast:
        text += "That goes with adaptive rates: Adam does so with smaller steps too, and SGD with larger ones does not."
    else:
        text += "Whether it is the adaptive rates or the size of the steps, these cases do not tell apart."
    return text


def judge(findings):
    """Return a dict that gives each part of the answer its `Verdict`, in the order in which they are told."""
    return {
        "Same products": _same(findings),
        "Other products": _rounding(findings),
        "Finer rounding": _finer(findings),
        "Is it the adaptive rates?": _rates(findings),
    }


def _same(found):
    if found.bitwise():
        text = (
            f"With {in_seeds(found.seeds)}, under SGD and under Adam, every weight and every loss of the CNN that computes the "
            "products of the FC network is equal to that network’s, to the last bit, after every epoch: the distance is 0. "
            "So the two are one function and one training, and whatever parts them otherwise is rounding."
        )
        return Verdict(True, "equal to the last bit", text)
    text = (
        f"The CNN that computes the products of the FC network is up to {short(found.largest('same'))} from it, though it "
        "should be equal to the last bit: on this machine the same product does not always round alike, so the other parts "
        "cannot be told from that."
    )
    return Verdict(False, "not equal", text)


def _rounding(found):
    sgd, adam = (in_epochs(found.by_case[case][0]["epochs"]) for case in ("sgd", "adam"))
    text = (
        f"By another method the CNN sums in another order, and is {spread(found.end('sgd'))} from the FC network after "
        f"{sgd} with SGD, {spread(found.end('adam'))} after {adam} with Adam (all weights; the median of "
        f"{in_seeds(found.seeds)}, the least and the greatest). While the training doubled in length, the distance grew by at "
        f"most {spread(found.growth('sgd'))} times with SGD and {spread(found.growth('adam'))} times with Adam; errors that "
        "only add up would double it. "
    )
    if found.amplified("adam"):
        text += f"There the distance under Adam doubled every {spread(found.doubling('adam'))} epochs. "
    nudged = found.end("adam", "nudged")
    text += (
        f"One weight of 17 million moved to the next number, all else equal, ends {spread(nudged)} away with Adam and "
        f"{spread(found.end('sgd', 'nudged'))} with SGD"
    )
    if np.median(nudged) > np.median(found.end("adam")) / 10:
        text += ": the path itself is sensitive; it needs no stream of rounding errors."
    else:
        text += ", less than by rounding in every step."
    ok = found.amplified("adam") and not found.amplified("sgd")
    title = "Adam amplifies rounding, SGD does not" if ok else "no clear difference between SGD and Adam"
    return Verdict(ok, title, text)


def _finer(found):
    ratios = {case: _quotient(*(np.median(found.end(name)) for name in (case, f"{case}64"))) for case in ("sgd", "adam")}
    text = (
        f"In float64 the networks end {spread(found.end('sgd64'))} apart with SGD and {spread(found.end('adam64'))} with "
        f"Adam: {short(ratios['sgd'])} and {short(ratios['adam'])} times less. Rounding itself is {short(FINER)} times finer. "
    )
    fine = ratios["adam"] > FINER / 100
    text += (
        "So the distance is made of rounding, amplified. "
        if fine
        else "So finer rounding alone does not explain the distance. "
    )
    growths = {case.title: found.growth(case.name) for case in CASES if case.name.startswith("eps")}
    text += f"With ε = 1e-8 the distance grew {spread(found.growth('adam'))} times while the training doubled, with "
    text += ", with ".join(f"{title.removeprefix('Adam, ')} {spread(values)} times" for title, values in growths.items())
    text += ". "
    closed = {case: np.median([r["closed"][-1] for r in found.by_case[case]]) for case in ("adam", "eps4")}
    text += (
        f"ε bounds Adam’s steps where gradients are small: with 1e-8 {closed['adam']:.0f} of the 784 outputs end up shut "
        f"(zero for every training image), with 1e-4 {closed['eps4']:.0f}."
    )
    title = "the gap shrinks as rounding does" if fine else "the gap does not shrink as rounding does"
    return Verdict(fine, title, text)


def _rates(found):
    fast, slow = found.amplified("fast"), found.amplified("slow")
    text = (
        "SGD has no adaptive rates; at a rate of 1 instead of 0.01 the distance grew by up to "
        f"{spread(found.growth('fast'))} times while the training doubled. Adam at a tenth of its rate adapts as before; there "
        f"it grew {spread(found.growth('slow'))} times. "
    )
    if fast and not slow:
        title = "no: neither needed nor enough"
        text += "So adaptive rates are neither needed for the networks to part, nor enough. "
    elif fast:
        title = "not needed"
        text += "So adaptive rates are not needed for the networks to part. "
    elif slow:
        title = "it may be"
        text += "That is what the authors’ guess predicts, at either rate. "
    else:
        title = "only together with large steps"
        text += "So it takes both: adaptive rates, and steps as large as the paper’s. "
    text += _steps(found)
    return Verdict(True, title, text)


def _steps(found):
    """Whether the size of the steps, against the limit of stability, tells the cases apart."""
    measured = [case for case in CASES if case.measure]
    ratios = {case.name: np.median(found.stability(case.name)) for case in measured}
    parted = [case for case in measured if found.amplified(case.name)]
    others = [case for case in measured if not found.amplified(case.name)]
    if not parted or not others:
        return ""
    least = min(ratios[case.name] for case in parted)
    above = [case.title for case in others if ratios[case.name] >= least]
    text = (
        f"Where the networks part, the steps (medians over the seeds) are {_range([ratios[case.name] for case in parted])} of the limit beyond which "
        f"small deviations grow; where they stay together, {_range([ratios[case.name] for case in others])}. "
    )
    if not above:
        return text + "What the cases that part have in common is steps near that limit."
    if len(above) < len(others):
        return text + (
            f"With steps below {short(least)} of the limit no case parts; above, some do and some do not "
            f"({'; '.join(above)})."
        )
    return text + "So the size of the steps does not tell the cases apart."


def _range(values):
    low, high = short(min(values)), short(max(values))
    return low if low == high else f"{low} to {high}"


def _quotient(a, b):
    return float(a / b) if b else float("inf") if a else 1.0
