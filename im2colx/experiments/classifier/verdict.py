"""What the numbers show, in words that follow from the numbers."""

from ..verdict import Verdict
from .swap import FORMS

# Of the largest score; each is a sum of some hundred products, rounded to 6e-8.
ROUNDING = 1e-5

FULL, GOAL = 60_000, 0.988  # what the network must read right when it has seen so many images


def judge(metrics):
    """A dict of `Verdict` by claim, from what is in ``classifier.json``."""
    return {"reads": _reads(metrics), "swap": _swap(metrics)}


def _reads(metrics):
    settings, accuracy, plain = metrics["settings"], metrics["accuracy"], metrics["nearest_mean"]
    test, wrong = settings["test_images"], metrics["mistakes"]
    text = f"Of {test:,} digits that it never saw before, the network reads {test - len(wrong):,} right: {accuracy:.2%}. "
    sure = sum(found["confidence"] > 0.9 for found in wrong)
    if wrong:
        text += f"Of its {len(wrong):,} mistake{'s' * (len(wrong) != 1)}, {sure:,} it made with more than 90% confidence. "
    text += f"The plainest rule, which looks for the most similar of ten mean images, reads {plain:.1%}. "
    if settings["images"] >= FULL:
        ok, title = accuracy >= GOAL, "It reads digits"
        if not ok:
            text += f"At least {GOAL:.1%} was to be expected. "
    else:
        ok, title = accuracy > plain, "It reads better than the plainest rule"
        text += f"It learned from {settings['images']:,} digits; with all {FULL:,} at least {GOAL:.1%} is to be expected. "
    return Verdict(ok, title if ok else "It reads worse than it should", text.strip())


def _swap(metrics):
    ok, sentences = True, ["In the place of the first CONV layer came an FC layer."]
    for form, found in metrics["swap"].items():
        relative = found["gap"] / found["largest"]
        same, rounding = found["differ"] == 0, relative <= ROUNDING
        ok = ok and same and rounding
        answers = "the same answer to every test digit" if same else f"another answer to {found['differ']:,} test digits"
        if found["gap"] == 0:
            scores = "the same scores to the last bit"
        else:
            size = ", which is rounding" if rounding else f", more than the {ROUNDING:g} that is rounding"
            scores = f"scores that differ by at most {found['gap']:.2g} ({relative:.1g} of the largest score{size})"
        sentences.append(f"With one {FORMS[form]}, the network gives {answers}, and {scores}; accuracy {found['accuracy']:.2%}.")
    closest, gap = (pick(found[key] for found in metrics["swap"].values()) for pick, key in ((min, "closest"), (max, "gap")))
    if ok:
        times = f", {closest / gap:,.0f} times that difference" if 0 < gap < closest else ""
        sentences.append(f"In the closest decision of all, the best score is {closest:.2g} above the next{times}.")
    return Verdict(ok, "CONV is FC, digit by digit" if ok else "The swap changed more than rounding", " ".join(sentences))
