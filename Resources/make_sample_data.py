"""Makes the module's sample data: a simulated thorax at inhale and exhale, on two lattices, with known landmarks.

Run again it writes the same bytes, as long as the libraries are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from JointRegSegLib.deformation import scalar_image
from JointRegSegLib.geometry import Grid
from JointRegSegLib.phantom import ThoraxPair, breathing_thorax
from JointRegSegLib.points import write_points
from JointRegSegLib.samples import FOLDER, INDEX
from matplotlib import image

#: How file names begin: Slicer keeps samples of all modules in one folder.
NAME = "JointRegSegThorax"
#: Anisotropic; coarse enough for a small file and a short wait.
SIZE, SPACING, NOISE_HU = (108, 88, 66), (2.8, 2.8, 4.4), 10.0
#: What each side is called; fixed and moving as the phantom has them.
BREATH = {"fixed": "Inhale", "moving": "Exhale"}
#: Pixels of the thumbnail, about as Slicer's Sample Data module wants it, and mm of each.
THUMBNAIL, PIXEL = (260, 280), 1.3
LOWEST, HIGHEST = -1000, 400  # its gray window, in HU


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=FOLDER, metavar="DIR", help="folder for the files")
    make(parser.parse_args().output)


def make(folder: Path) -> None:
    """Write volumes, landmarks, thumbnail and their index into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pair = breathing_thorax(size=SIZE, spacing=SPACING, noise_hu=NOISE_HU)
    files = []
    for role, breath in BREATH.items():
        name = f"{NAME}{breath}.nrrd"
        sitk.WriteImage(getattr(pair, role), str(folder / name), useCompression=True, compressionLevel=9)
        files.append({"file": name, "role": role, "kind": "VolumeFile", "node": f"Thorax{breath}"})
    for role, breath in BREATH.items():
        name = f"{NAME}{breath}Points.mrk.json"
        write_points(getattr(pair, f"{role}_points"), folder / name)
        files.append({"file": name, "role": f"{role}_points", "kind": "MarkupsFile", "node": f"Thorax{breath}Points"})
    for file in files:
        file["sha256"] = hashlib.sha256((folder / file["file"]).read_bytes()).hexdigest()
    # Without the name of the program, which holds its version.
    image.imsave(folder / f"{NAME}.png", thumbnail(pair), metadata={"Software": None})
    entry = {"name": "BreathingThorax", "thumbnail": f"{NAME}.png", "files": files}
    (folder / INDEX).write_text(json.dumps([entry], indent=2) + "\n", encoding="utf-8")


def thumbnail(pair: ThoraxPair) -> np.ndarray:
    """A coronal cut, (h, w, 3) in 0 to 1: inhale orange, exhale blue, gray where they agree."""
    width, height = THUMBNAIL
    coronal = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])  # columns run to the left, rows down
    grid = Grid.centered((0, -8, 28), (width, height, 1), (PIXEL, PIXEL, 1), coronal)
    lattice = scalar_image(np.zeros(grid.shape, np.int16), grid)

    def gray(scan: sitk.Image) -> np.ndarray:
        cut = sitk.Resample(scan, lattice, sitk.Transform(), sitk.sitkLinear, LOWEST)
        return np.clip((sitk.GetArrayFromImage(cut)[0] - LOWEST) / (HIGHEST - LOWEST), 0, 1)

    fixed, moving = gray(pair.fixed), gray(pair.moving)
    return np.stack([fixed, (fixed + moving) / 2, moving], -1)


if __name__ == "__main__":
    main()
