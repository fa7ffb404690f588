"""What models there are, for the terminal."""

from __future__ import annotations

import time

import torch

from . import catalog, models
from .models import Bundle

#: Figures of a card in words, and how they are shown; others stand by their own names.
FIGURES = {
    "before": "Dice before {:.3f}",
    "dice": "after {:.3f}",
    "dice30": "of the hardest 30 % of pairs {:.3f}",
    "segmentation": "segmentation {:.3f}",
    "hd95": "HD95 {:.2f} voxels",
    "folded": "folded {:.4%}",
    "spread": "spread of log J {:.2f}",
    "inverse": "there and back {:.2f} voxels off",
    "seconds": "{:.2g} s",
}


def print_models(measure: bool = False) -> None:
    """Print each model with its license, expected input and time; ``measure`` runs each network once here."""
    generic = catalog.GENERIC_ENTRY
    print(f"{generic['name']}\n  {generic['title']}: {generic['description']}")
    print(f"  input: two images of the same body part    license: {generic['license']}")
    for bundle in models.installed():
        entry = bundle.manifest
        lattice = entry["preprocessing"]
        size, spacing = (" x ".join(f"{v:g}" for v in lattice[key]) for key in ("size", "spacing"))
        unit = "of the scan's" if lattice.get("unit") == "voxels" else "mm"
        print(f"\n{bundle.name}")
        print(f"  {entry['title']}: {entry['description']}")
        print(f"  input: {entry['modality']}, {entry['anatomy']}; {size} voxels of {spacing} {unit} after resampling")
        print(f"  labels: {', '.join(label['name'] for label in entry['labels']) or 'none'}")
        print(f"  license: {entry['license']}")
        print(f"  the network alone, on its lattice: {in_words(entry['validation']['figures'])}")
        machine = entry["validation"].get("machine", "an unnamed machine")
        print(f"    of people who were left out; {machine}; {entry['validation']['command']}")
        if measure:
            print(f"  this computer: {seconds(bundle):.2f} s for the network ({torch.get_num_threads()} threads)")


def in_words(figures: dict[str, float]) -> str:
    """Figures of a card as a line."""
    known = [FIGURES[key].format(figures[key]) for key in FIGURES if key in figures]
    return ", ".join([*known, *(f"{key} {value:g}" for key, value in figures.items() if key not in FIGURES)])


def seconds(bundle: Bundle) -> float:
    """Time of one pass of a bundle's network on the CPU, the better of two, without loading."""
    network = models.load(bundle)
    shape = tuple(reversed(bundle.preprocessing.size))
    image = torch.zeros(1, bundle.manifest["arguments"].get("inputs", 1), *shape)
    times = []
    for _ in range(2):
        began = time.perf_counter()
        network.infer(image, image)
        times.append(time.perf_counter() - began)
    return min(times)
