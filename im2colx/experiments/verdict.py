"""What the numbers of a run show, in words that follow from the numbers."""

from typing import NamedTuple

# (output distance, weight distance) as the authors recorded them, after 400 epochs.
AUTHORS = {"sgd": (1.84765432613e-06, 2.12273e-07), "adam": (0.535982942939, 0.0742322)}
AUTHORS_EPOCHS = 400

# Distances up to this count as rounding.  1e-5 is about 80 units in the last place of float32, and five times what
# the authors saw; the limit for float64 keeps a similar room over its own rounding.
ROUNDING = {"float32": 1e-5, "float64": 1e-12}

NAMES = {"sgd": "SGD", "adam": "Adam", "cnn": "CNN", "fc": "FC"}


class Verdict(NamedTuple):
    """The judgement on one optimizer."""

    ok: bool  # whether the run shows what it should
    title: str
    text: str


def in_epochs(count):
    """Return "1 epoch", "20 epochs"."""
    return f"{count} epoch{'s' if count != 1 else ''}"


def judge(metrics):
    """Return a dict that gives each optimizer of `metrics` (as in ``metrics.json``) its `Verdict`."""
    return {name: _judge(name, metrics) for name in NAMES if name in metrics and name in AUTHORS}


def _judge(optimizer, metrics):
    result, dtype, epochs = metrics[optimizer], metrics["settings"]["dtype"], metrics["settings"]["epochs"]
    limit = ROUNDING[dtype]
    output, weight = result["output_distance"], result["weight_distance"]
    equal = output <= limit and weight <= limit
    alike = "Equal to the last bit" if output == weight == 0 else "Equal to rounding"
    stuck = _not_falling(result)
    after = f"After {in_epochs(epochs)} with {NAMES[optimizer]}, the"
    sentences = [f"{after} outputs of layer 1 differ by {output:.3g} and its weights by {weight:.3g}."]
    if output == weight == 0:
        sentences = [
            f"{after} outputs of layer 1 and its weights are equal to the last bit: training the CNN and training the "
            "FC network is the same computation."
        ]
    elif equal:
        sentences.append(
            f"Both are at most {limit:g}, the size of rounding in {dtype}: training the CNN and training the FC "
            "network is the same computation, done in another order."
        )
    elif optimizer == "sgd":
        sentences.append(
            f"That is more than the {limit:g} that counts as rounding in {dtype}, so this run does not show the two "
            "networks to be equivalent."
        )
    if stuck:
        sentences.append(f"Not every loss fell: {', '.join(stuck)}.")
    elif epochs > 1:  # one epoch gives each curve one point
        sentences.append("All four losses fell.")
    if optimizer == "adam":
        sentences.append(_on_the_gap(equal, metrics["settings"]))

    if optimizer == "sgd" and not equal:
        title = "Not equal"
    elif stuck:
        title = f"{alike}, but not learning" if equal else "Not learning"
    elif equal:
        title = alike
    else:
        title = "Both learn, a gap remains" if epochs > 1 else "A gap remains"
    return Verdict((equal or optimizer == "adam") and not stuck, title, " ".join(sentences))


def sums_in(settings):
    """The dtype in which the gradients of layer 1 are summed, where that is another than the networks'; else False."""
    return settings["sums"] not in ("same", settings["dtype"]) and settings["sums"]


def _on_the_gap(equal, settings):
    """What is known of the gap under Adam: the authors' guess, and a hypothesis, each called what it is."""
    if equal:
        output, weight = AUTHORS["adam"]
        wide = sums_in(settings)
        because = f": with the gradients of layer 1 summed in {wide}, hardly any rounding is left (see --sums)" if wide else ""
        return (
            f"The authors recorded a gap here ({output:.3g} and {weight:.3g} after {AUTHORS_EPOCHS} epochs) and guess "
            f"at adaptive learning rates; in this run none has opened{because}."
        )
    where = "That is asked below." if settings.get("question") else "This run does not test that; im2colx experiment question does."
    return (
        "The networks drift apart although each computes what the other does. The authors saw such a gap too and guess "
        f"that adaptive learning rates are the cause. {where}"
    )


def _not_falling(result):
    """Name the curves whose last loss is not below the first."""
    return [
        f"{NAMES[network]} {kind} ({losses[0]:.4g} to {losses[-1]:.4g})"
        for network in ("cnn", "fc")
        for kind, losses in (
            ("training", result[network]["train_loss"]),
            ("validation", result[network]["val_loss"]),
        )
        if len(losses) > 1 and not losses[-1] < losses[0]
    ]
