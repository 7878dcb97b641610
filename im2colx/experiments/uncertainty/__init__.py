"""How sure is a CONV layer?  Three answers that were derived for FC layers, on real digits.

A CONV layer is an FC layer on the rows of the patch matrix, ``Y = Φ W``.  So a method that puts a distribution over the
weight matrix W of an FC layer does so for a CONV layer as it stands: the layers here know of no convolution.

======================  =============================================================
`layers`                Patches (Φ as a layer), ConcreteDense, BayesDense, the loss
`methods`               the network with each method; its training; its draws as CONV layers
`images`                digits turned by an angle, and images that are no digits
`measure`               predictive entropy, mutual information, AUROC
`study`                 everything together: settings in, numbers out
`verdict`               what the numbers show, in words
`figures`, `report`     the figures, and the page around them
`_cli`                  the command ``im2colx experiment uncertainty``
======================  =============================================================
"""
