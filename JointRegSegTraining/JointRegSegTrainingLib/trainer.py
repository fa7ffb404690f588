"""Training: steps, checkpoints that continue exactly, on one process or on many."""

from __future__ import annotations

import inspect
import io
import json
import math
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from JointRegSegLib.errors import InputError, OutputError
from JointRegSegLib.networks import NETWORKS, Level, Prediction, RegistrationNetwork

from .plan import Plan, from_entries
from .schemes import scheme_of
from .subjects import Subject

#: What a checkpoint holds, and seconds after which there is a new one at the latest.
_STATE = ("network", "average", "optimizer", "generator", "step", "sums", "counted")
KEEP = 300.0
#: Voxels along each side on which a network is tried.
LEAST = 32

# So that torch.distributed finds all outputs, those in which no weighted loss takes part among them.
for _kind in (Prediction, Level):
    torch.export.register_dataclass(_kind)


def build(plan: Plan) -> RegistrationNetwork:
    """The plan's network, freshly initialized from its seed.

    Raises
    ------
    InputError
        If the network does not take the plan's arguments, or does not fit its lattice, channels or labels.
    """
    known = inspect.signature(NETWORKS[plan.network]).parameters
    if strange := [name for name in plan.arguments if name not in known]:
        raise InputError(f"arguments: network '{plan.network}' has no '{strange[0]}'; it has {', '.join(known)}")
    torch.manual_seed(plan.seed)
    try:
        network = NETWORKS[plan.network](**plan.arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"arguments: network '{plan.network}' does not take these values ({_line(error)})") from None
    if any(n % network.divisor for n in plan.preprocessing.size):
        found = " x ".join(map(str, plan.preprocessing.size))
        raise InputError(
            f"preprocessing.size: network '{plan.network}' needs multiples of {network.divisor}, which {found} are not"
        )
    if network.inputs != plan.preprocessing.channels:
        raise InputError(f"arguments.inputs: images have {plan.preprocessing.channels} channels, not {network.inputs}")
    classes, needed = all_arguments(plan).get("classes", 0), len(plan.segmented) + 1
    if classes not in (0, needed):
        raise InputError(
            f"arguments.classes: segmented labels and background are {needed}, not {classes} (0: no segmentation)"
        )
    return network


def require_computable(network: RegistrationNetwork, plan: Plan) -> None:
    """Raise `InputError` if a network cannot compute: some values come to light only when it does."""
    # As small as may be, for the plan's own lattice would take as long as a step; but of a single voxel, which a
    # network may come down to, no layer that normalizes knows the deviation.
    enough = network.divisor * max(4, -(-LEAST // network.divisor))
    shape = [min(n, enough) for n in plan.preprocessing.size[::-1]]
    images = torch.randn(2, 1, plan.preprocessing.channels, *shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            network.infer(*images)
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        raise InputError(
            f"network '{plan.network}' cannot compute with these arguments on {' x '.join(map(str, shape[::-1]))} "
            f"voxels ({_line(error)}); look at arguments and preprocessing.size"
        ) from None


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def all_arguments(plan: Plan) -> dict[str, Any]:
    """The network's arguments with its defaults written out, so that a later default does not change old bundles."""
    parameters = inspect.signature(NETWORKS[plan.network]).parameters
    return {name: p.default for name, p in parameters.items()} | plan.arguments


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
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); look at its permissions") from None
    try:
        if zipfile.ZipFile(io.BytesIO(content)).testzip() is not None:  # a checksum, which torch does not look at
            raise zipfile.BadZipFile
        state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception:  # torch raises many types for what is no checkpoint
        raise InputError(f"{path}: is damaged; remove it to begin anew") from None
    if not isinstance(state, dict) or any(key not in state for key in _STATE):
        raise InputError(f"{path}: is no checkpoint of a training run; remove it to begin anew")
    return state


def check_folder(folder: Path, plan: Plan) -> None:
    """Whether a run of ``plan`` may begin in a folder, or go on there.

    Raises
    ------
    InputError
        If the folder holds a run of another plan, or a damaged one.
    OutputError
        If it is no folder, or holds anything else.
    """
    path = folder / "plan.json"
    try:
        if not path.is_file():
            if folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
                raise OutputError(f"{folder}: is not empty and holds no training run; name another folder")
            return
        if not (folder / "state.pt").exists():
            return  # it was broken off before anything was learned
        # Entries that an earlier version did not know are as they are by default.
        found = asdict(from_entries(json.loads(path.read_text(encoding="utf-8")), str(path)))
    except OSError as error:
        raise OutputError(f"{folder}: cannot be a run's folder ({error.strerror}); name another one") from None
    except ValueError:
        raise InputError(f"{path}: is damaged; choose another folder") from None
    if other := [key for key, value in asdict(plan).items() if found[key] != value]:
        raise InputError(
            f"{path} holds another plan, which differs in {', '.join(other)}; choose another folder, to which the "
            "weights of this run can be taken by export and --start"
        )


def fits(own: torch.Tensor | None, other: torch.Tensor) -> bool:
    """Whether a weight exists here and has the same shape."""
    return own is not None and own.shape == other.shape


class Trainer:
    """One training run in one folder.

    ``state.pt`` holds everything (weights, their running average, optimizer, random state, step); a run that was
    interrupted goes on from it and draws the same pairs and variations as an unbroken one. Under ``accelerate launch``
    or ``torchrun`` every process takes its share of each batch, and the first one writes.
    """

    def __init__(
        self,
        plan: Plan,
        train: Sequence[Subject],
        folder: Path,
        device: str = "cpu",
        start: RegistrationNetwork | None = None,
        references: Path | None = None,
    ) -> None:
        """Begin a run in ``folder`` or continue the one there.

        ``start`` is a trained network to take weights from, where shapes agree; ``taken`` tells how many of how many
        arrays were. ``references`` is the folder of make-references.

        Raises
        ------
        InputError, OutputError
            If the plan does not fit the subjects, the network, the one to start from, the number of processes or what
            is in the folder.
        """
        # A part that rests, or that no weighted loss asks for, has no gradients: processes have to be prepared for it.
        rests = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(cpu=device == "cpu", kwargs_handlers=[rests])
        if plan.pairs % self.accelerator.num_processes:
            count = self.accelerator.num_processes
            raise InputError(f"batches of {plan.pairs} pairs cannot be shared evenly by {count} processes")
        if self.accelerator.is_main_process:
            check_folder(folder, plan)
        self.plan, self.folder = plan, folder
        self.taken = (0, 0)
        self.device = torch.device(device) if self.accelerator.num_processes == 1 else self.accelerator.device
        self.scheme = scheme_of(plan, train, references, self.device)
        self.network = build(plan)
        require_computable(self.network, plan)
        if start is not None:
            if type(start) is not type(self.network):
                kinds = {kind: name for name, kind in NETWORKS.items()}
                raise InputError(f"network '{plan.network}' cannot start from one of '{kinds[type(start)]}'")
            own = self.network.state_dict()
            shared = {k: v for k, v in start.state_dict().items() if fits(own.get(k), v)}
            self.network.load_state_dict(own | shared)
            self.taken = (len(shared), len(own))
        # Convolutions of few channels are several times as fast that way.
        self.network.to(self.device, memory_format=torch.channels_last_3d)
        self.parts = dict(self.network.named_children())
        for name in (*plan.frozen, *plan.alternate):
            if name not in self.parts:
                raise InputError(f"the network has no part '{name}'; it has {', '.join(self.parts)}")
        for name in plan.frozen:
            self.parts[name].requires_grad_(False)
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        trained = [p for p in self.network.parameters() if p.requires_grad]
        if not trained:
            raise InputError(f"frozen: {', '.join(plan.frozen)} are all that could be trained; leave one of them out")
        self.optimizer = torch.optim.AdamW(trained, lr=plan.rate, weight_decay=1e-4)
        self.generator = torch.Generator().manual_seed(plan.seed)
        self.step = 0
        # Loss terms since the last report; a run that goes on reports what an unbroken one would.
        self.sums: dict[str, float] = {}
        self.counted = 0
        self._keep_plan()
        if (folder / "state.pt").exists():
            self._resume()
        elif start is not None:
            self.save()  # or a run that is broken off before its first checkpoint would begin from nothing
        self.model = self.network
        if self.accelerator.num_processes > 1:
            self.model = self.accelerator.prepare_model(self.network)

    def rate(self) -> float:
        """Learning rate now: a short warm-up, then the plan's course."""
        plan, warm = self.plan, min(1.0, (self.step + 1) / 100)
        course = {
            "cosine": 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / plan.steps))),
            "constant": 1.0,
            "halving": 0.5 ** (self.step // plan.halving),
        }
        return plan.rate * warm * course[plan.schedule]

    def resting(self) -> set[str]:
        """Parts that are not trained in this step of the alternation."""
        turns = {name: count for name, count in self.plan.alternate.items() if name not in self.plan.frozen}
        place = self.step % max(sum(turns.values()), 1)
        for name, count in turns.items():
            if place < count:
                return set(turns) - {name}
            place -= count
        return set()

    def train_step(self) -> dict[str, float]:
        """One batch; returns the weighted loss terms of this process.

        Raises
        ------
        InputError
            If the loss or its gradient is no longer finite; weights stay as they are then.
        """
        resting = self.resting()
        for name in self.plan.alternate:
            self.parts[name].requires_grad_(name not in resting and name not in self.plan.frozen)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        shared = self.accelerator
        terms = self.scheme.terms(self.model, self.generator, shared.process_index, shared.num_processes)
        self.optimizer.zero_grad(set_to_none=True)
        loss = sum(terms.values())
        if not loss.requires_grad:
            used = ", ".join(name for name, value in asdict(self.plan.weights).items() if value)
            raise InputError(f"weights: none of those above 0 ({used}) counts in scheme '{self.plan.scheme}'")
        shared.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise InputError(
                f"step {self.step + 1}: the loss is no longer finite; begin again in another folder, with a lower "
                f"'rate' than {self.plan.rate:g}, or look at what the weights ask for"
            )
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
        progress: Callable[[float], None] | None = None,
    ) -> None:
        """Train to the plan's end or for ``minutes``.

        Every so many steps ``report`` hears the mean loss terms, and then the state is saved, so that no report is
        missing after an interruption; ``progress`` hears the share of all steps that is done, after each. With several
        processes only the first one reports, of its share.
        """
        end, first = time.monotonic() + 60 * minutes, self.accelerator.is_main_process
        kept = time.monotonic()
        while self.step < self.plan.steps and not self._over(end):
            for name, value in self.train_step().items():
                self.sums[name] = self.sums.get(name, 0.0) + value
            self.counted += 1
            if progress and first:
                progress(self.step / self.plan.steps)
            if self.step % every == 0 or self.step == self.plan.steps:
                means = {name: value / self.counted for name, value in self.sums.items()}
                self.sums, self.counted = {}, 0
                if report and first:
                    report(self.step, means)
                self.save()
                kept = time.monotonic()
            elif time.monotonic() - kept > KEEP:
                self.save()
                kept = time.monotonic()
        self.save()

    def leave(self) -> None:
        """Part from the other processes, for one that just ended might abort: threads of theirs would be at work."""
        self.model = self.network
        self.accelerator.free_memory()
        self.accelerator.end_training()

    def _over(self, end: float) -> bool:
        """Whether the time is up; all processes agree, for one alone would wait for the others forever."""
        if math.isinf(end):
            return False
        if time.monotonic() >= end:
            self.accelerator.set_trigger()
        return self.accelerator.check_trigger()

    def averaged_network(self) -> RegistrationNetwork:
        """A copy of the network with the running average of its weights: the one to validate and to ship."""
        network = build(self.plan).to(self.device)
        network.load_state_dict(self.average)
        return network.eval()

    def save(self) -> None:
        """Write ``state.pt`` in one move, so that an interruption leaves the last complete one."""
        if not self.accelerator.is_main_process:
            return
        if not all(value.isfinite().all() for value in self.network.state_dict().values()):
            raise InputError(
                f"step {self.step}: weights are no longer finite; begin again in another folder, with a lower 'rate' "
                f"than {self.plan.rate:g}"
            )
        state = {
            "network": self.network.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
            "sums": self.sums,
            "counted": self.counted,
        }
        written, part = io.BytesIO(), self.folder / "state.tmp"
        torch.save(state, written)  # into a file it would not say what is wrong with that
        try:
            part.write_bytes(written.getbuffer())
            part.replace(self.folder / "state.pt")
        except OSError as error:
            part.unlink(missing_ok=True)
            raise OutputError(
                f"{self.folder}: cannot be written ({error.strerror}); the last checkpoint is still there"
            ) from None

    def _keep_plan(self) -> None:
        plan_file = self.folder / "plan.json"
        if self.accelerator.is_main_process and not (self.folder / "state.pt").exists():
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                plan_file.write_text(json.dumps(asdict(self.plan), indent=1), encoding="utf-8")
            except OSError as error:
                raise OutputError(f"{self.folder}: cannot be written ({error.strerror}); name another folder") from None
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        state = read_state(self.folder, self.device)
        try:
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError, TypeError):
            raise InputError(f"{self.folder / 'state.pt'}: is of another network; remove it to begin anew") from None
        self.average = state["average"]
        self.generator.set_state(state["generator"].cpu())
        self.step = state["step"]
        self.sums, self.counted = state["sums"], state["counted"]
