"""A MRML scene: nodes in, nodes out. The only part of the library that imports Slicer.

The scene is RAS, everything else is LPS: the sign changes happen here, and in nothing but `geometry_of` and its
opposites. No node that the user made is ever changed.
"""
