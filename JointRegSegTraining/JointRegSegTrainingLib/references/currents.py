"""Registration of surfaces as currents (Vaillant and Glaunès 2005, "Surface matching via currents").

A triangle with center c and area vector n is a current n δ_c; two surfaces are compared by the norm that a Gaussian
kernel gives to currents, which needs no corresponding points: |S - T|² = Σ K(c, c') n · n' over all pairs. The
deformation is the flow of a time-dependent velocity field Σ K_V(x, q_k(t)) a_k(t), carried by some of the template's
points q_k(t); its energy Σ a · K_V a is what the deformation costs: it is smooth and keeps surfaces from crossing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .surfaces import Surface


@dataclass(frozen=True)
class Matching:
    """How surfaces are matched; lengths in mm.

    Attributes
    ----------
    widths : tuple of float
        Standard deviations of the currents' kernel, coarse to fine; the first one also fits an affine map.
    flow : tuple of float
        Standard deviations of the Gaussians whose mean is K_V.
    stiffness : float
        Weight of the deformation's energy, per mm² of mean squared displacement, beside a data term that is 1 for
        surfaces far apart.
    controls : int
        Number of points that carry momenta.
    steps : int
        Of the flow.
    iterations : int
        Of L-BFGS for each width.
    reach : float
        How far points are moved onto the surface in the end, see `surfaces.onto`; farther ones would fold the field.
    """

    widths: tuple[float, ...] = (30.0, 15.0, 8.0, 5.0)
    flow: tuple[float, ...] = (40.0, 20.0, 10.0)
    stiffness: float = 1e-6
    controls: int = 200
    steps: int = 4
    iterations: int = 20
    reach: float = 2.0


def spread(points: np.ndarray, count: int) -> np.ndarray:
    """Indices of ``count`` of the points (n, 3), each next one as far as possible from those before."""
    chosen, distance = [0], np.full(len(points), np.inf)
    for _ in range(min(count, len(points)) - 1):
        distance = np.minimum(distance, np.square(points - points[chosen[-1]]).sum(1))
        chosen.append(int(distance.argmax()))
    return np.array(chosen)


def squares(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """|a - b|² for points (n, 3) and (m, 3): (n, m)."""
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp_min(0)


def current(points: torch.Tensor, triangles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Centers and area vectors, both (m, 3), of a surface."""
    a, b, c = points[triangles].unbind(1)
    return (a + b + c) / 3, torch.linalg.cross(b - a, c - a) / 2


def product(a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor], width: float) -> torch.Tensor:
    """Inner product of two currents."""
    return ((torch.exp(squares(a[0], b[0]) / (-2 * width**2)) @ b[1]) * a[1]).sum()


def mismatch(
    a: tuple[torch.Tensor, torch.Tensor],
    b: tuple[torch.Tensor, torch.Tensor],
    width: float,
    norm: torch.Tensor | None = None,
) -> torch.Tensor:
    """|a - b|² of two currents, divided by |a|² + |b|²: 0 for the same surface, 1 for surfaces far apart.

    ``norm`` is |b|², where it is known already.
    """
    own = product(a, a, width) + (product(b, b, width) if norm is None else norm)
    return 1 - 2 * product(a, b, width) / own


def match(template: Sequence[Surface], target: Sequence[Surface], matching: Matching) -> np.ndarray:
    """Deform a template's surfaces onto those of a subject, structure by structure.

    Returns
    -------
    numpy.ndarray
        (n, 3): where the template's points, those of all structures in a row, go in mm.
    """
    points = torch.from_numpy(np.concatenate([s.points for s in template])).float()
    starts = np.cumsum([0, *(len(s.points) for s in template)])
    triangles = [torch.from_numpy(s.triangles + start) for s, start in zip(template, starts, strict=False)]
    targets = [current(torch.from_numpy(s.points).float(), torch.from_numpy(s.triangles)) for s in target]
    norms = {width: [product(t, t, width) for t in targets] for width in matching.widths}
    middle, scale = _moments([current(points, t) for t in triangles])
    there, size = _moments(targets)

    def data(moved: torch.Tensor, width: float) -> torch.Tensor:
        pairs = zip(triangles, targets, norms[width], strict=True)
        return sum(mismatch(current(moved, t), other, width, norm) for t, other, norm in pairs) / len(targets)

    # Affine parameters in units in which 1 moves the surface by about its own radius.
    linear, shift = torch.eye(3) * (size / scale), torch.zeros(3)
    unknown = [linear.requires_grad_(), shift.requires_grad_()]

    def affine() -> torch.Tensor:
        return (points - middle) @ linear.T + size * shift + there

    _minimize(lambda: data(affine(), matching.widths[0]), unknown, matching.iterations)
    start = affine().detach()
    controls = torch.from_numpy(spread(start.numpy(), matching.controls))
    momenta = torch.zeros(matching.steps, len(controls), 3, requires_grad=True)
    for width in matching.widths:

        def objective(width: float = width) -> torch.Tensor:
            moved, energy = flow(start, controls, momenta, matching.flow)
            return data(moved, width) + matching.stiffness * energy

        _minimize(objective, [momenta], matching.iterations)
    return flow(start, controls, momenta.detach(), matching.flow)[0].double().numpy()


def flow(
    points: torch.Tensor, controls: torch.Tensor, momenta: torch.Tensor, widths: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Carry points (n, 3) along for one unit of time.

    Parameters
    ----------
    controls : torch.Tensor
        (m,) indices of the points whose momenta (steps, m, 3) are given.

    Returns
    -------
    tuple
        Where the points are then, and the energy ∫ Σ a · K_V a dt divided by m.
    """
    energy, time = points.new_zeros(()), 1 / len(momenta)
    for momentum in momenta:
        distances = squares(points, points[controls])
        velocity = sum(torch.exp(distances / (-2 * width**2)) for width in widths) @ momentum / len(widths)
        energy = energy + time * (momentum * velocity[controls]).sum() / len(controls)
        points = points + time * velocity
    return points, energy


def _moments(currents: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Centroid (3,) and radius, the root of the mean squared distance from it, of surfaces taken together."""
    centers, areas = torch.cat([c for c, _ in currents]), torch.cat([n for _, n in currents]).norm(dim=1)
    middle = (centers * areas[:, None]).sum(0) / areas.sum()
    return middle, ((centers - middle).square().sum(1) @ areas / areas.sum()).sqrt()


def _minimize(objective: Callable[[], torch.Tensor], unknown: list[torch.Tensor], iterations: int) -> None:
    optimizer = torch.optim.LBFGS(
        unknown, max_iter=iterations, history_size=10, tolerance_change=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = objective()
        loss.backward()
        return loss

    optimizer.step(closure)
