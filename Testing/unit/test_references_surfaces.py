"""Surfaces of drawn ellipsoids on a lattice with thick slices."""

from __future__ import annotations

import numpy as np
import pytest
from JointRegSegLib.errors import InputError
from JointRegSegTrainingLib.references.surfaces import Surface, surface, surfaces_of

SHAPE, SPACING = (14, 40, 44), (8.0, 2.5, 2.0)
MIDDLE, RADII = np.array([52.0, 47.0, 43.0]), np.array([36.0, 25.0, 30.0])


def ellipsoid(middle=MIDDLE, radii=RADII) -> np.ndarray:
    x = np.moveaxis(np.indices(SHAPE), 0, -1) * SPACING
    return (np.square((x - middle) / radii).sum(-1) <= 1).astype(np.uint8)


@pytest.mark.parametrize(("edge", "missing"), [(6.0, 0.05), (12.0, 0.1)])
def test_an_ellipsoid(edge, missing):
    found = surface(ellipsoid(), SPACING, edge)
    volume = 4 / 3 * np.pi * RADII.prod()
    assert (1 - missing) * volume < found.volume < volume  # it has its corners on the ellipsoid
    middle = np.average(found.points[found.triangles].mean(1), axis=0, weights=found.areas)
    np.testing.assert_allclose(middle, MIDDLE, atol=0.5)
    radius = np.linalg.norm((found.points - MIDDLE) / RADII, axis=1)
    assert abs(radius - 1).mean() < 0.03
    edges = found.points[found.triangles] - found.points[np.roll(found.triangles, 1, 1)]
    assert 0.5 * edge < np.median(np.linalg.norm(edges, axis=2)) < edge


def test_it_is_closed_even_where_the_structure_leaves_the_lattice():
    mask = ellipsoid(middle=np.array([52.0, 10.0, 43.0]))
    assert mask[:, 0].any()
    triangles = surface(mask, SPACING, 8.0).triangles
    sides = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    # Each side belongs to two triangles, which run along it in opposite senses.
    there, back = {tuple(s) for s in sides}, {tuple(s) for s in sides[:, ::-1]}
    assert len(there) == len(sides)
    assert there == back


def test_a_stray_voxel_is_no_part_of_it():
    mask = ellipsoid()
    clean = surface(mask, SPACING, 8.0)
    mask[0, 0, 0] = 1
    np.testing.assert_array_equal(surface(mask, SPACING, 8.0).points, clean.points)


def test_unions_of_labels():
    labels = ellipsoid() + ellipsoid(radii=RADII - 10)  # 2 inside of 1
    wall, cavity, both = surfaces_of(labels, [(1,), (2,), (1, 2)], SPACING, 6.0)
    assert wall.volume == pytest.approx(both.volume - cavity.volume, rel=0.05)


def test_too_small():
    mask = np.zeros(SHAPE, np.uint8)
    with pytest.raises(InputError, match=r"people, labels \[3\].*lower references.edge"):
        surfaces_of(mask, [(3,)], SPACING, 6.0, "people")


def test_area_and_volume_of_a_tetrahedron():
    corners = np.array([[0, 0, 0], [3, 0, 0], [0, 4, 0], [0, 0, 5]], float)
    triangles = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    solid = Surface(corners, triangles)
    assert solid.volume == pytest.approx(10)
    assert Surface(corners + 7, triangles[:, ::-1]).volume == pytest.approx(-10)
    np.testing.assert_allclose(solid.areas[:3], [6, 7.5, 10])
