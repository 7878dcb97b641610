"""What the numbers show, in words that follow from the numbers."""

import numpy as np

from ..verdict import Verdict
from .study import first, jumps

# The largest change of a score, over the largest score.  In float32 a score is a sum of hundreds of products, each
# rounded to 6e-8; in float64 to 1e-16.
KEPT = {"float32": 1e-5, "float64": 1e-12}

# The mean loss of the first batches may be higher by so many nats than without the morph: a third of what it differs by
# from one batch to the next.
JUMP = 0.03


def judge(results):
    """Return a dict of `Verdict` by claim, from results as `study.run` gives them."""
    return {"kept": _kept(results), "smooth": _smooth(results), "better": _better(results)}


def _kept(results):
    gaps = {dtype: max(max(morph["gap"][dtype]) for morph in results["morphs"]) for dtype in KEPT}
    failures = [
        f"{morph['name']} in {dtype} ({max(morph['gap'][dtype]):.2g})"
        for morph in results["morphs"] for dtype, limit in KEPT.items() if not max(morph["gap"][dtype]) <= limit
    ]
    text = (
        "No morph changes a score of a test digit by more than "
        + " or ".join(f"{gap:.2g} in {dtype}" for dtype, gap in gaps.items())
        + ", as a share of the largest score: rounding."
    )
    if failures:
        text = f"The function changes beyond rounding: {', '.join(failures)}."
    return Verdict(not failures, "The function is kept", text)


def _smooth(results):
    largest = {morph["name"]: jumps(morph, "morphed").max() for morph in results["morphs"]}
    random = [f"{jumps(morph, 'random').mean():+.2f} ({morph['name']})" for morph in results["morphs"]]
    failures = [f"{name} ({jump:+.3f})" for name, jump in largest.items() if not jump <= JUMP]
    sentences = [
        f"Over the first {first(results)} batches after a morph, the loss is at most {max(largest.values()):+.3f} nats above "
        f"what the unchanged network has on the same batches (tolerance {JUMP:g}; the worst of all morphs and seeds).",
        "With random numbers in place of the weights that the morph chooses, it is, in the mean over seeds: "
        f"{', '.join(random)}.",
    ]
    if failures:
        sentences.append(f"Beyond the tolerance: {', '.join(failures)}.")
    return Verdict(not failures, "Training goes on without a jump", " ".join(sentences))


def _better(results):
    runs = {name: {key: np.array(run[key]) for key in ("test_loss", "accuracy")} for name, run in results["runs"].items()}
    end = runs["grown"]["test_loss"][:, -1]

    def at(name, stage):
        loss, accuracy = (runs[name][key][:, stage].mean() for key in ("test_loss", "accuracy"))
        return f"{loss:.3f} and {accuracy:.1%}"

    seeds = len(end)
    more = np.count_nonzero(end < runs["small"]["test_loss"][:, -1])
    ok = bool(more == seeds)
    # Stages of the last architecture that take no more arithmetic than all of the grown network's.
    affordable = sum(results["multiply_adds"]) // results["multiply_adds"][-1]
    text = (
        f"Test loss and accuracy go from {at('grown', 0)} before the first morph to {at('grown', -1)} at the end. The small "
        f"network trained on for as long reaches {at('small', -1)}: the grown one has the lower loss in {more} of {seeds} "
        f"seeds. The last architecture from random weights reaches {at('scratch', -1)} in as many steps, and "
        f"{at('scratch', affordable - 1)} in the {affordable} stages that take about the arithmetic of the growing."
    )
    return Verdict(ok, "The larger network is better" if ok else "The larger network is not better than the small one, trained as long", text)
