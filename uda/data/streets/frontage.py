"""What lines a street: terraces, houses with gardens, parks, fields, walls and fences."""

from __future__ import annotations

import numpy as np

from uda.data.streets.buildings import Box, paint_fence, paint_wall, pick, vary
from uda.data.streets.ground import FAR
from uda.data.streets.scene import Scene, add_building, add_bush, add_tree

_START = -10.0  # metres; façades begin behind the camera


def line_road(scene: Scene, side: int) -> None:
    """Lines one side of the road from behind the camera to the far end."""
    rng, street = scene.rng, scene.street
    kinds = list(scene.domain.layout.frontage.items())
    weights = np.cumsum([w for _, w in kinds])
    builders = {
        "terrace": _terrace,
        "houses": _houses,
        "park": _park,
        "field": _field,
        "wall": _walled,
        "fence": _walled,
    }
    z = _START
    while z < FAR * 0.8:
        kind = kinds[int(np.searchsorted(weights, rng.uniform(0, weights[-1])))][0]
        end = z + rng.uniform(25, 60)
        if street.crossing and z < street.crossing[0] < end:
            end = street.crossing[0] - 1.0
        if end - z > 4:
            builders[kind](scene, side, z, end, kind)
        z = end
        if street.crossing and street.crossing[0] - 2 < z < street.crossing[1]:
            z = street.crossing[1] + 1.0


def _terrace(scene: Scene, side: int, start: float, end: float, kind: str) -> None:
    rng, front = scene.rng, scene.street.sides[side].front
    scene.street.paved.append((side, start, end))
    low, high = scene.domain.layout.storeys
    while end - start > 3:
        stop = min(end, start + rng.uniform(8, 17))
        if end - stop < 5:
            stop = end
        storeys = int(rng.integers(low, high + 1))
        add_building(
            scene,
            Box(side, front + rng.uniform(0, 0.5), start, stop, 11.0, storeys * rng.uniform(2.9, 3.4)),
            storeys,
            False,
        )
        start = stop


def _border(scene: Scene, side: int, start: float, end: float, kind: str, tall: float) -> None:
    """A wall, a fence or a hedge in pieces, so that things in front and behind keep their order."""
    rng, domain = scene.rng, scene.domain
    front, lit = scene.street.sides[side].front + 0.2, scene.facade(side)
    colour = vary(rng, pick(rng, domain.palette.wall if kind == "wall" else domain.palette.fence))
    z = start
    while z < end:
        stop = min(z + 4.0, end)
        box = Box(side, front, z, stop, 0.3, tall)
        if kind == "wall":
            scene.items.append((stop, lambda canvas, box=box: paint_wall(canvas, box, lit, colour)))  # type: ignore[misc]
        elif kind == "fence":
            scene.items.append((stop, lambda canvas, box=box: paint_fence(canvas, box, lit, colour)))  # type: ignore[misc]
        elif z > 2:
            add_bush(scene, side * (front + 0.8), z + 1.5, 2.2, tall)
        z = stop
    if side == scene.sun and kind != "fence":
        scene.street.cast(start, end, tall * scene.slope)


def _houses(scene: Scene, side: int, start: float, end: float, kind: str) -> None:
    rng, street = scene.rng, scene.street
    border = pick(rng, ("wall", "fence", "hedge", "hedge", "none"))
    _border(scene, side, start, end, border, rng.uniform(0.8, 1.5)) if border != "none" else None
    z = start + rng.uniform(0, 3)
    while z < end - 7:
        stop = min(end, z + rng.uniform(8, 13))
        storeys, back = int(rng.integers(2, 4)), rng.uniform(3.0, 7.0)
        add_building(scene, Box(side, street.sides[side].front + back, z, stop, 9.0, storeys * 2.8), storeys, True)
        gap = rng.uniform(3, 9)
        for _ in range(int(rng.integers(0, 3))):
            at = rng.uniform(z, stop + gap)
            if at > 7 and not scene.blocked(at, 3):
                add_tree(scene, side * (street.sides[side].front + rng.uniform(1.8, back + 6)), at, rng.uniform(3.5, 8))
        z = stop + gap


def _park(scene: Scene, side: int, start: float, end: float, kind: str) -> None:
    rng, front = scene.rng, scene.street.sides[side].front
    z = start
    while z < end:
        if z > 4:
            for row, chance in ((2.5, 0.55), (7.0, 0.6), (13.0, 0.7)):
                if rng.random() < chance:
                    at = z + rng.uniform(-1, 1)
                    add_tree(scene, side * (front + row + rng.uniform(-1, 2)), max(at, 6.0), rng.uniform(5, 12))
            if rng.random() < 0.5:
                add_bush(scene, side * (front + rng.uniform(1.5, 9)), z, rng.uniform(1, 2.4), rng.uniform(0.8, 2.4))
        if z > 1 and rng.random() < 0.85:
            add_bush(scene, side * (front + rng.uniform(15, 20)), z, rng.uniform(4, 6), rng.uniform(4, 9))
        z += rng.uniform(3.5, 6.0)
    if side == scene.sun and rng.random() < 0.6:
        scene.street.cast(start, end, 7 * scene.slope)


def _field(scene: Scene, side: int, start: float, end: float, kind: str) -> None:
    rng, front = scene.rng, scene.street.sides[side].front
    z = max(start, 3.0)
    while z < end:
        if rng.random() < 0.7:
            add_bush(scene, side * (front + rng.uniform(18, 30)), z, rng.uniform(3, 7), rng.uniform(1.5, 5))
        if rng.random() < 0.2 and z > 8:
            add_tree(scene, side * (front + rng.uniform(2, 14)), z, rng.uniform(4, 8))
        z += rng.uniform(4, 8)
    if rng.random() < 0.4:
        _border(scene, side, start, end, "fence", rng.uniform(0.7, 1.1))


def _walled(scene: Scene, side: int, start: float, end: float, kind: str) -> None:
    rng, front = scene.rng, scene.street.sides[side].front
    _border(scene, side, start, end, kind, rng.uniform(1.2, 2.8) if kind == "wall" else rng.uniform(1.0, 2.0))
    z = max(start, 6.0)
    while z < end:
        if rng.random() < 0.75:
            add_tree(scene, side * (front + rng.uniform(2.5, 9)), z, rng.uniform(4, 10))
        z += rng.uniform(3, 6)
    if rng.random() < 0.5:
        add_building(scene, Box(side, front + rng.uniform(9, 14), start, end, 12.0, 9.0), 3, True)
