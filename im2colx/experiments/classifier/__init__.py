"""A network that reads handwritten digits, also with an FC layer in place of its first CONV layer.

``im2colx experiment classifier`` trains it and keeps it in ``classifier.npz``.  To have it read a picture of yours::

    from im2colx.experiments import classifier
    model = classifier.load("im2colx-classifier/classifier.npz")
    image = classifier.read_picture("my-digit.png")
    digit, confidence = classifier.classify(model, image)

======================  =============================================================
`network`, `picture`    the network, kept, loaded, asked; pictures as MNIST has them
`swap`                  an FC layer in place of the first CONV layer
`study`                 everything together: settings in, numbers out
`verdict`               what the numbers show, in words
`figures`, `report`     the figures, and the page around them
`_cli`                  the command ``im2colx experiment classifier``
======================  =============================================================
"""

from .network import classify, load
from .picture import read_picture

__all__ = ["classify", "load", "read_picture"]
