"""Makes the pictures of README and Extensions Manager: the reading layouts of the registered sample pair.

The pair is really registered and reviewed, and Slicer's own view classes draw what its views show; they need EGL.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import slicer
from JointRegSegLib.samples import samples
from JointRegSegLib.scene import layout, lung, motion, sample
from JointRegSegLib.scene.registrar import Registrar
from matplotlib import image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "Testing" / "scene"))
from rendering import render  # noqa: E402
from surroundings import new_scene  # noqa: E402

FOLDER = ROOT / "Resources" / "Screenshots"
#: Pixels of a view's sides, and between two views.
SIDE, GAP = 480, 4
#: Window and level in HU that show lungs and soft tissue, and mm between the lines of the deformation.
WINDOW, LEVEL, SPACING = 1400, -300, 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=FOLDER, metavar="DIR")
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
        points = {side: nodes[f"{side}_points"] for side in ("fixed", "moving")}
        review = registrar.reviewLungs(None, fixed, moving, points=points)  # registered anew: lungs slide
    finally:
        registrar.close()
    output.mkdir(parents=True, exist_ok=True)
    layout.show(scene, result, fixed)
    turn(scene, fixed)
    motion.deformation(scene, result, "grid", SPACING)
    save(scene, output / "reading-layout.png")
    motion.deformation(scene, result, "off")
    lung.show(scene, review, "ventilation")
    turn(scene, fixed)
    lung.jump(scene, review.report["regions"][1]["center_mm"])
    save(scene, output / "lung-review.png")
    print(f"{result.verdict}: {output}")


def turn(scene: slicer.vtkMRMLScene, fixed: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Coronal views of the pictures' size."""
    for tag in layout.VIEWS:
        node = layout.slice_node(scene, tag)
        node.SetDimensions(SIDE, SIDE, 1)
        node.SetOrientation("Coronal")
    layout.fit(scene, fixed)


def save(scene: slicer.vtkMRMLScene, path: Path) -> None:
    """The four views as one picture."""
    views = [
        np.pad(render(scene, tag, (SIDE, SIDE)), ((0, GAP), (0, GAP), (0, 0)), constant_values=255)
        for tag in layout.VIEWS
    ]
    rows = np.vstack([np.hstack(views[:2]), np.hstack(views[2:])])
    # Without the name of the program, which holds its version.
    image.imsave(path, rows[:-GAP, :-GAP], metadata={"Software": None})


if __name__ == "__main__":
    main()
