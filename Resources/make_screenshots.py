"""Makes the picture of README and Extensions Manager: the reading layout of the registered sample pair.

The pair is really registered, and Slicer's own view classes draw what its views show; they need EGL.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import slicer
from JointRegSegLib.samples import samples
from JointRegSegLib.scene import layout, motion, sample
from JointRegSegLib.scene.registrar import Registrar
from matplotlib import image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "Testing" / "scene"))
from rendering import render  # noqa: E402
from surroundings import new_scene  # noqa: E402

PICTURE = ROOT / "Resources" / "Screenshots" / "reading-layout.png"
#: Pixels of a view's sides, and between two views.
SIDE, GAP = 480, 4
#: Window and level in HU that show lungs and soft tissue, and mm between the lines of the deformation.
WINDOW, LEVEL, SPACING = 1400, -300, 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=PICTURE, metavar="PNG")
    output = parser.parse_args().output
    scene = slicer.mrmlScene = new_scene()
    nodes = sample.load(scene, samples()[0])
    fixed, moving = nodes["fixed"], nodes["moving"]
    for node in (fixed, moving):
        node.GetDisplayNode().AutoWindowLevelOff()
        node.GetDisplayNode().SetWindowLevel(WINDOW, LEVEL)
    registrar = Registrar()
    try:
        result = registrar.registerAndSegment(fixed, moving)
    finally:
        registrar.close()
    layout.show(scene, result, fixed)
    for tag in layout.VIEWS:
        node = layout.slice_node(scene, tag)
        node.SetDimensions(SIDE, SIDE, 1)
        node.SetOrientation("Coronal")
    layout.fit(scene, fixed)
    motion.deformation(scene, result, "grid", SPACING)
    views = [
        np.pad(render(scene, tag, (SIDE, SIDE)), ((0, GAP), (0, GAP), (0, 0)), constant_values=255)
        for tag in layout.VIEWS
    ]
    rows = np.vstack([np.hstack(views[:2]), np.hstack(views[2:])])
    output.parent.mkdir(parents=True, exist_ok=True)
    # Without the name of the program, which holds its version.
    image.imsave(output, rows[:-GAP, :-GAP], metadata={"Software": None})
    print(f"{result.verdict}: {output}")


if __name__ == "__main__":
    main()
