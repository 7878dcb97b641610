"""A network that reads handwritten digits, and what becomes of it when its CONV layer is swapped for an FC layer.

Trained by ``im2colx experiment classifier``, it is kept in ``classifier.npz``.  To have it read a digit of your own, from a
picture of dark ink on light paper (or the other way round)::

    from im2colx.experiments import classifier
    model = classifier.load("im2colx-classifier/classifier.npz")
    image = classifier.read_picture("my-digit.png")
    digit, confidence = classifier.classify(model, image)

======================  =============================================================
`network`               the network; to keep it, to load it, to ask it
`picture`               a picture of a digit as MNIST would have it
`swap`                  the same network with an FC layer in place of its first CONV layer
`study`                 everything together: settings in, numbers out
`verdict`               what the numbers show, in words
`figures`, `report`     the figures, and the page around them
`_cli`                  the command ``im2colx experiment classifier``
======================  =============================================================
"""

from .network import classify, load
from .picture import read_picture

__all__ = ["classify", "load", "read_picture"]
