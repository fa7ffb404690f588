"""Training: losses of one direction or both, checkpoints that continue exactly."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from JointRegSegLib import fields, losses
from JointRegSegLib.errors import InputError
from JointRegSegLib.networks import NETWORKS, Prediction, RegistrationNetwork
from JointRegSegLib.preprocess import Preprocessing

from .augment import Augmentation
from .cohort import Subject


@dataclass(frozen=True)
class Weights:
    """Weight of each term; `similarity`, `overlap` and `gradient` are α, β and γ of Estienne et al. 2020, `error` (mean
    square), `similarity`, `affine` and `gradient` those of Estienne et al. 2019, equations 4 and 5."""

    similarity: float = 1.0
    error: float = 0.0
    overlap: float = 1.0
    gradient: float = 0.1
    affine: float = 0.1
    inverse: float = 0.05
    smoothness: float = 0.0
    folding: float = 10.0
    segmentation: float = 1.0


@dataclass(frozen=True)
class Plan:
    """All that decides the outcome of a training, and what is written into its folder as ``plan.json``.

    ``mixed`` computes convolutions in bfloat16: half the time on a GPU, and on a CPU that knows it (AVX-512 BF16).
    ``frozen`` names parts of the network whose weights stay as they are: with encoder and segmentation trained already,
    registration alone takes a third of the time.
    """

    network: str = "symmetric"
    arguments: dict = field(default_factory=dict)
    preprocessing: Preprocessing = field(default_factory=lambda: Preprocessing((40, 56, 40), (1, 1, 1)))
    labels: tuple[int, ...] = (1, 2)
    weights: Weights = field(default_factory=Weights)
    augmentation: Augmentation = field(default_factory=Augmentation)
    steps: int = 4000
    pairs: int = 2
    rate: float = 1e-3
    average: float = 0.998
    mixed: bool = False
    frozen: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise InputError(f"unknown network '{self.network}'; known: {', '.join(NETWORKS)}")


def build(plan: Plan) -> RegistrationNetwork:
    """The plan's network, freshly initialized from its seed.

    Raises
    ------
    InputError
        If the network does not take the plan's arguments.
    """
    torch.manual_seed(plan.seed)
    try:
        return NETWORKS[plan.network](**plan.arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"network '{plan.network}' does not take these arguments ({error})") from None


def read_state(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What `Trainer.save` wrote into the folder of a run.

    Raises
    ------
    InputError
        If there is none, or it is damaged.
    """
    path = folder / "state.pt"
    if not path.is_file():
        raise InputError(f"{path}: no such file; name the folder of a training run")
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception:  # torch raises many types for what is no checkpoint
        raise InputError(f"{path}: is damaged; remove it to begin anew") from None


def memberships(labels: torch.Tensor, values: Sequence[int]) -> torch.Tensor:
    """(N, 1, D, H, W) whole numbers → (N, 1 + K, D, H, W) one-hot memberships, background first."""
    found = [(labels == value).float() for value in values]
    return torch.cat([1 - sum(found), *found], 1)


def objective(
    prediction: Prediction, images: torch.Tensor, labels: torch.Tensor, weights: Weights
) -> dict[str, torch.Tensor]:
    """Loss terms, weighted, of a batch: images (2 N, C, D, H, W), moving first, and memberships (2 N, K, D, H, W).

    Each level of the deep supervision is compared at its own resolution and the last one at the image's too; both
    directions count alike.
    """
    n = images.shape[0] // 2
    out = {name: images.new_zeros(()) for name in asdict(weights)}
    share = 1 / len(prediction.levels)
    for level in prediction.levels:
        u, count = level.displacement, len(level.displacement)
        moving, fixed, moving_labels, target = (
            F.adaptive_avg_pool3d(x[:count], u.shape[2:])
            for x in (images, images.roll(n, 0), labels, labels.roll(n, 0))
        )
        total = fields.then_affine(u, level.affine)
        window = 9 if u.shape[2:] == images.shape[2:] else 5
        warped = fields.warp(moving, total)
        out["similarity"] += share * losses.local_correlation(warped, fixed, window)
        out["error"] += share * losses.mse(warped, fixed)
        out["overlap"] += share * losses.dice(fields.warp(moving_labels, total)[:, 1:], target[:, 1:])
        if level.gradients is not None:
            out["gradient"] += share * losses.gradient_deviation(level.gradients)
        if level.affine is not None:
            out["affine"] += share * losses.affine_deviation(level.affine, u.shape[2:])
        out["folding"] += share * losses.folding(u)
        out["smoothness"] += share * losses.diffusion(u)
        if count > n:
            out["inverse"] += share * losses.inverse_consistency(total[:n], total[n:])
    both = [way for way in (prediction.there, prediction.back) if way is not None]
    count = n * len(both)
    carried = fields.warp(labels[:count, 1:], torch.cat(both))
    out["overlap"] = out["overlap"] + losses.dice(carried, labels.roll(n, 0)[:count, 1:])
    scores = [s for s in (prediction.moving_segmentation, prediction.fixed_segmentation) if s is not None]
    if scores:
        out["segmentation"] = losses.segmentation(torch.cat(scores), labels[: n * len(scores)])
    return {name: value * getattr(weights, name) for name, value in out.items()}


def fits(own: torch.Tensor | None, other: torch.Tensor) -> bool:
    """Whether a weight exists here and has the same shape."""
    return own is not None and own.shape == other.shape


class Trainer:
    """One training run in one folder.

    ``state.pt`` holds everything (weights, their running average, optimizer, random state, step); a run that was
    interrupted goes on from it and draws the same pairs and variations as an unbroken one.
    """

    def __init__(
        self,
        plan: Plan,
        train: Sequence[Subject],
        folder: Path,
        device: str = "cpu",
        start: RegistrationNetwork | None = None,
    ) -> None:
        """Begin a run in ``folder`` or continue the one there; ``start`` is a trained network to take weights from."""
        if len(train) < 2 * plan.pairs:
            raise InputError(f"{len(train)} subjects are too few for batches of {plan.pairs} pairs; lower --pairs")
        self.plan, self.folder, self.device = plan, folder, torch.device(device)
        self.network = build(plan)
        if start is not None:
            own = self.network.state_dict()
            self.network.load_state_dict(own | {k: v for k, v in start.state_dict().items() if fits(own.get(k), v)})
        self.network.to(self.device)
        parts = dict(self.network.named_children())
        for name in plan.frozen:
            if name not in parts:
                raise InputError(f"the network has no part '{name}' to freeze; it has {', '.join(parts)}")
            parts[name].requires_grad_(False)
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=plan.rate, weight_decay=1e-4)
        self.generator = torch.Generator().manual_seed(plan.seed)
        self.step = 0
        self.images = torch.cat([s.image for s in train]).to(self.device)
        self.labels = torch.cat([s.labels for s in train]).to(self.device)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(plan), indent=1)
        plan_file = folder / "plan.json"
        if plan_file.exists() and json.loads(plan_file.read_text()) != json.loads(text):
            raise InputError(f"{plan_file} holds another plan; choose another folder")
        plan_file.write_text(text)
        if (folder / "state.pt").exists():
            self._resume()

    def rate(self) -> float:
        """Learning rate now: a short warm-up, then half a cosine down to zero."""
        warm = min(1.0, (self.step + 1) / 100)
        return self.plan.rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / self.plan.steps)))

    def train_step(self) -> dict[str, float]:
        """One batch; returns the weighted loss terms."""
        n = self.plan.pairs
        chosen = torch.randperm(len(self.images), generator=self.generator)[: 2 * n].to(self.device)
        labels = memberships(self.labels[chosen], self.plan.labels)
        images, labels = self.plan.augmentation(self.images[chosen], labels, self.generator)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.plan.mixed):
            prediction = self.network(images[:n], images[n:])
        terms = objective(prediction, images, labels, self.plan.weights)
        self.optimizer.zero_grad(set_to_none=True)
        sum(terms.values()).backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        decay = min(self.plan.average, self.step / (self.step + 10))
        for name, value in self.network.state_dict().items():
            self.average[name].lerp_(value, 1 - decay)
        return {name: float(value.detach()) for name, value in terms.items()}

    def run(
        self,
        minutes: float = math.inf,
        every: int = 200,
        report: Callable[[int, dict[str, float]], None] | None = None,
    ) -> None:
        """Train to the plan's end or for ``minutes``; saves and reports mean loss terms every so many steps."""
        end, sums, counted = time.monotonic() + 60 * minutes, {}, 0
        while self.step < self.plan.steps and time.monotonic() < end:
            for name, value in self.train_step().items():
                sums[name] = sums.get(name, 0.0) + value
            counted += 1
            if self.step % every == 0 or self.step == self.plan.steps:
                self.save()
                if report:
                    report(self.step, {k: v / counted for k, v in sums.items()})
                sums, counted = {}, 0
        self.save()

    def averaged_network(self) -> RegistrationNetwork:
        """A copy of the network with the running average of its weights: the one to validate and to ship."""
        network = build(self.plan).to(self.device)
        network.load_state_dict(self.average)
        return network.eval()

    def save(self) -> None:
        """Write ``state.pt`` in one move, so that an interruption leaves the last complete one."""
        state = {
            "network": self.network.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
        }
        torch.save(state, self.folder / "state.tmp")
        (self.folder / "state.tmp").replace(self.folder / "state.pt")

    def _resume(self) -> None:
        state = read_state(self.folder, self.device)
        self.network.load_state_dict(state["network"])
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.step = state["step"]
