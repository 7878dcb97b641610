"""How unsure a network is, in numbers.

With p_t the class probabilities of an image under draw t of the weights, and p their mean over the draws::

    predictive entropy   H(p)                       how unsure, for whatever reason; 0 to log 10 = 2.30 nats
    mutual information   H(p) - mean over t H(p_t)  how much of it is that the draws disagree: not knowing the weights
                                                    (BALD, Houlsby et al. 2011; the epistemic part)
"""

import numpy as np
from scipy.special import entr
from scipy.stats import rankdata


def uncertainty(probabilities):
    """Predictive entropy and mutual information of every image, in nats.

    Parameters
    ----------
    probabilities : ndarray, shape (draws, n, classes)

    Returns
    -------
    dict
        "entropy", "mutual_information" and "confidence" (the largest class probability of the mean), each (n,).
    """
    mean = probabilities.mean(axis=0)
    entropy = entr(mean).sum(axis=-1)
    return {
        "entropy": entropy,
        # It cannot be negative, but for rounding.
        "mutual_information": np.maximum(entropy - entr(probabilities).sum(axis=-1).mean(axis=0), 0),
        "confidence": mean.max(axis=-1),
    }


def auroc(low, high):
    """The probability that a number drawn from `high` is above one drawn from `low` (equal ones count half)."""
    ranks = rankdata(np.concatenate([low, high]))[len(low) :]
    return float((ranks.sum() - len(high) * (len(high) + 1) / 2) / (len(low) * len(high)))
