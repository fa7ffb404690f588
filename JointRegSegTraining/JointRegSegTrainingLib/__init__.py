"""Training of JointRegSeg's networks. It imports the library; the library never imports it."""
