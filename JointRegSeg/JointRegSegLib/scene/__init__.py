"""A MRML scene: nodes in, nodes out. The only part of the library that imports Slicer.

The scene is RAS, everything else is LPS: the signs of matrices change by `volumes.FLIP`, those of displacements where a
grid transform is made (`volumes`) or read (`propagate`). No node that the user made is ever changed.
"""
