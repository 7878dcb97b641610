"""Make a trained network wider and deeper without changing its function: FC algebra, carried back to CONV.

A CONV layer is ``Y = Φ W``.  A morph of an FC network is a statement about products of matrices, so it is one about CONV
layers too, once it is known how Φ changes.  The statements are in `algebra`, one function each.

======================  =============================================================
`algebra`               the morphs, as matrices: widening, embedding, identity, decomposing
`network`               a network as a list of layers with weights; its `nn.Sequential`
`morphs`                the algebra applied to a network: Net2Net and NetMorph
`study`                 everything together: settings in, numbers out
`verdict`               what the numbers show, in words
`figures`, `report`     the figures, and the page around them
`_cli`                  the command ``im2colx experiment morphism``
======================  =============================================================
"""
