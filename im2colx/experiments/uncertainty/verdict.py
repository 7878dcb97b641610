"""What the numbers show, in words that follow from the numbers."""

import numpy as np

from ..verdict import Verdict
from .study import QUARTER

# Scores of the two forms may differ by this share of the largest: about 80 units in the last place of float32.
ROUNDING = 1e-5

# From this angle on, a digit counts as turned: up to about 30 degrees it may still be read.
TURNED = 45

NAMES = {"entropy": "predictive entropy", "mutual_information": "mutual information"}
KINDS = {"letters": "letters", "jigsaw": "jigsaws of digits", "noise": "noise"}


def judge(results):
    """Return a dict of `Verdict` by claim, from results as `study.run` gives them."""
    return {"turned": _turned(results), "foreign": _foreign(results), "forms": _forms(results)}


def random_methods(results):
    """The methods that have a distribution over their weights: name to results."""
    return {name: found for name, found in results["methods"].items() if name != "deterministic"}


def _turned(results):
    angles, found = results["angles"], random_methods(results).values()
    at = angles.index(QUARTER)
    failures = [
        f"{method['name']} at {angle}° ({name})"
        for method in found
        for key, name in NAMES.items()
        for angle, values in zip(angles, np.array(method["turned"][key]).T, strict=True)
        if angle >= TURNED and not (values > np.array(method["turned"][key])[:, 0]).all()
    ]
    rises = [
        f"{name} is {_listed(_ratio(*np.mean(method['turned'][key], axis=0)[[at, 0]]) for method in found)} times that of "
        "upright digits"
        for key, name in NAMES.items()
    ]
    plain = {key: np.mean(values, axis=0) for key, values in results["methods"]["deterministic"]["turned"].items()}
    sentences = [
        f"At {QUARTER}°, {' and '.join(rises)} ({_listed(method['name'] for method in found)}).",
        f"The plain network reads {plain['accuracy'][at]:.0%} of these digits right, but is {plain['confidence'][at]:.0%} "
        f"sure, by its largest softmax output; its entropy is {_ratio(plain['entropy'][at], plain['entropy'][0])} times "
        "that of upright digits, and mutual information it has none.",
    ]
    if failures:
        sentences.append(f"But doubt is not above that of upright digits in every seed: {', '.join(failures)}.")
    else:
        sentences.append(f"From {TURNED}° on, both measures are above those of upright digits with every method in every seed.")
    return Verdict(not failures, "Unsure of turned digits", " ".join(sentences))


def _foreign(results):
    found = random_methods(results).values()
    below = {
        key: [
            f"{method['name']} on {name}"
            for method in found
            for kind, name in KINDS.items()
            if not (np.array(method["sets"][kind][key]) > method["sets"]["upright"][key]).all()
        ]
        for key in NAMES
    }
    entropies = [{kind: np.mean(values["entropy"]) for kind, values in method["sets"].items()} for method in found]
    rises = [
        f"on {name} {_listed(_ratio(means[kind], means['upright']) for means in entropies)}" for kind, name in KINDS.items()
    ]
    sentences = [f"Predictive entropy is so many times that of upright digits: {'; '.join(rises)} "
                 f"({_listed(method['name'] for method in found)})."]
    for key, name in NAMES.items():
        if below[key]:
            sentences.append(f"But {name} is not above that of upright digits in every seed: {', '.join(below[key])}.")
    if not any(below.values()):
        sentences.append("Both measures are above those of upright digits on every set, with every method in every seed.")
    return Verdict(not below["entropy"], "Unsure of what is no digit", " ".join(sentences))


def _ratio(value, base):
    return f"{value / base:.1f}" if base else "∞"


def _listed(words):
    *most, last = words
    return f"{', '.join(most)} and {last}"


def _forms(results):
    largest = max(max(found["rounding_gap"]) for found in results["methods"].values())
    ok = largest <= ROUNDING
    verdict = ", which is rounding." if ok else f", more than the {ROUNDING:g} that is rounding."
    text = (
        "A draw of the weights, taken from the FC layers and reshaped to kernels, gives through im2colx.conv2d the same "
        f"scores as on the patch matrix: the largest difference is {largest:.2g} of the largest score"
    )
    return Verdict(ok, "CONV is FC, draw by draw", text + verdict)
