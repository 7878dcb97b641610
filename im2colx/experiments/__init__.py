"""The experiment of Ma & Lu (2017), "An Equivalence of Fully Connected Layer and Convolutional Layer".

A convolutional network and the fully connected network that computes the same function start from the same weights,
see the same real digits in the same order, and are compared after training.  ``python -m im2colx experiment`` runs
it and writes numbers, figures and a report.

======================  =============================================================
`paper`                 the two networks, their training, the distances between them
`verdict`               what the numbers show, in words; the numbers of the authors
`figures`               the figures, as PNG
`report`                the report, one self-contained HTML page (from ``body.html``)
`_cli`                  the command
`_drawing`, `_page`     how figures and pages look
`_run`                  what the commands share
`_checkpoints`          the folder of checkpoints of a long run
`question`              why do the curves part under Adam?
======================  =============================================================
"""
