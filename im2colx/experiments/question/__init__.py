"""Why do the curves part under Adam?  The question that Ma & Lu (2017) left open, settled by measurement.

The convolutional network and the fully connected one of the paper compute the same function, and under SGD they stay
together; under Adam the authors saw them part, and guessed at adaptive learning rates.  Here both are trained side by
side, epoch by epoch, in cases that differ in one thing each: ``im2colx experiment question``.

======================  =============================================================
`networks`              what is compared with the FC network
`study`                 the cases, and their training: interruptible, resumable
`stability`             how near an optimizer's steps are to the limit of stability
`verdict`               what the numbers show, in words that follow from them
`figures`, `report`     the figures, and the page or the part of a page around them
`_cli`                  the command
======================  =============================================================
"""

EPOCHS = 25
SEEDS = 5
