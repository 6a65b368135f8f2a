"""Draws the layout of a street: what stands where, in which order it is painted and what shadow it casts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from uda.data.streets.buildings import Box, paint_building, paint_fence, paint_wall, pick, vary
from uda.data.streets.camera import Board, Canvas, Floats
from uda.data.streets.domains import Domain
from uda.data.streets.figures import paint_person, paint_two_wheeler
from uda.data.streets.ground import FAR, Side, Street
from uda.data.streets.roadside import paint_bollard, paint_bush, paint_lamp, paint_light, paint_sign, paint_tree
from uda.data.streets.vehicles import BUS, CAR, TRUCK, make_vehicle, paint_vehicle

_START = -10.0  # metres; façades begin behind the camera


@dataclass
class Scene:
    """A street and what stands on it."""

    domain: Domain
    rng: np.random.Generator
    sun: int
    """The side the sun is on: -1 left, 1 right."""
    shade: float
    """Brightness of shaded faces relative to lit ones."""
    slope: float
    """Length of a shadow relative to the height."""
    gable: float
    """Light on faces that look towards the camera."""
    street: Street
    items: list[tuple[float, Callable[[Canvas], None]]] = field(default_factory=list)
    """Far end (m) and painter of everything that stands up."""
    cast: list[Floats] = field(default_factory=list)
    """Ground polygons in the shade of something."""
    contact: list[Floats] = field(default_factory=list)
    """Ground polygons right below something."""

    @property
    def sides(self) -> tuple[float, float]:
        """Light on faces that look left and right."""
        soft = (1 + self.shade) / 2
        return (1.0, soft) if self.sun < 0 else (soft, 1.0)

    def facade(self, side: int) -> float:
        """Light on façades of a side of the road."""
        return 1.0 if self.sun == -side else self.shade

    def board(self, x: float, z: float, paint: Callable[[Board], None]) -> None:
        """Adds something that is painted on an upright board."""

        def run(canvas: Canvas) -> None:
            if (board := canvas.board(x, 0.0, z)) is not None:
                paint(board)

        self.items.append((z, run))

    def blocked(self, z: float, margin: float = 0.0) -> bool:
        """Whether a side road passes at ``z``."""
        crossing = self.street.crossing
        return crossing is not None and crossing[0] - margin < z < crossing[1] + margin

    def disc(self, x: float, z: float, radii: tuple[float, float]) -> Floats:
        """An ellipse on the ground."""
        angle = np.linspace(0, 2 * math.pi, 10, endpoint=False)
        return np.stack([x + radii[0] * np.cos(angle), np.full(10, 0.02), z + radii[1] * np.sin(angle)], -1)


def make_scene(domain: Domain, rng: np.random.Generator) -> Scene:
    """Draws a street of a domain."""
    layout, palette = domain.layout, domain.palette
    lane = rng.uniform(*layout.lane)
    lanes = 1 if rng.random() < layout.lanes[0] / sum(layout.lanes) else 2
    sides = {}
    for sign in (-1, 1):
        parking = rng.uniform(1.9, 2.3) if rng.random() < min(1.0, layout.parked * 1.6) else 0.0
        verge = rng.uniform(1.2, 3.5) if rng.random() < layout.verge else 0.0
        sides[sign] = Side(lane * lanes + parking + 0.3, parking, verge, rng.uniform(*layout.sidewalk))
    crossing = None
    if rng.random() < layout.crossing:
        start = rng.uniform(11, 50)
        crossing = (start, start + rng.uniform(6, 11))
    street = Street(
        sides, lane, lanes, crossing, vary(rng, pick(rng, palette.road)), vary(rng, pick(rng, palette.sidewalk)),
        vary(rng, pick(rng, palette.terrain)), palette.marking, bool(rng.random() < 0.75), bool(rng.random() < 0.7),
    )  # fmt: skip
    shade = rng.uniform(*domain.light.shade)
    gable = 0.95 if rng.random() < 0.5 else min(0.95, shade + 0.12)
    sun = 1 if rng.random() < 0.5 else -1
    scene = Scene(domain, rng, sun, shade, rng.uniform(*domain.light.elevation), gable, street)
    for sign in (-1, 1):
        _frontage(scene, sign)
        _kerb(scene, sign)
        _pedestrians(scene, sign)
    _traffic(scene)
    _cross_traffic(scene)
    return scene


def _tree(scene: Scene, x: float, z: float, tall: float) -> None:
    rng, spread = scene.rng, tall * scene.rng.uniform(0.24, 0.36)
    scene.board(x, z, lambda board: paint_tree(board, rng, scene.domain, tall, spread, scene.sun, scene.shade))
    shift = -scene.sun * tall * scene.slope * 0.6
    scene.contact.append(scene.disc(x, z, (0.5, 0.5)))
    if z < 60:
        for _ in range(9):  # dapples
            dx, dz = rng.normal(0, spread * 0.6, 2).tolist()
            size = spread * rng.uniform(0.2, 0.5)
            scene.cast.append(scene.disc(x + shift + dx * (1 + scene.slope), z + dz, (size * (1 + scene.slope), size)))


def _bush(scene: Scene, x: float, z: float, wide: float, tall: float) -> None:
    rng = scene.rng
    scene.board(x, z, lambda board: paint_bush(board, rng, scene.domain, wide, tall, scene.sun, scene.shade))


def _building(scene: Scene, box: Box, storeys: int, house: bool) -> None:
    rng, lit = scene.rng, (scene.facade(box.side), scene.gable)
    scene.items.append((box.end, lambda canvas: paint_building(canvas, rng, scene.domain, box, storeys, lit, house=house)))
    if box.side == scene.sun:
        back = box.front - scene.street.sides[box.side].front
        scene.street.cast(box.start, box.end, box.height * scene.slope - back)


def _frontage(scene: Scene, side: int) -> None:
    """Lines one side of the road from behind the camera to the far end."""
    rng, street = scene.rng, scene.street
    kinds = list(scene.domain.layout.frontage.items())
    weights = np.cumsum([w for _, w in kinds])
    builders = {"terrace": _terrace, "houses": _houses, "park": _park, "field": _field, "wall": _walled, "fence": _walled}
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
        _building(scene, Box(side, front + rng.uniform(0, 0.5), start, stop, 11.0, storeys * rng.uniform(2.9, 3.4)), storeys, False)
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
            scene.items.append((stop, lambda canvas, box=box: paint_wall(canvas, rng, domain, box, lit, colour)))  # type: ignore[misc]
        elif kind == "fence":
            scene.items.append((stop, lambda canvas, box=box: paint_fence(canvas, box, lit, colour)))  # type: ignore[misc]
        elif z > 2:
            _bush(scene, side * (front + 0.8), z + 1.5, 2.2, tall)
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
        _building(scene, Box(side, street.sides[side].front + back, z, stop, 9.0, storeys * 2.8), storeys, True)
        gap = rng.uniform(3, 9)
        for _ in range(int(rng.integers(0, 3))):
            at = rng.uniform(z, stop + gap)
            if at > 7 and not scene.blocked(at, 3):
                _tree(scene, side * (street.sides[side].front + rng.uniform(1.8, back + 6)), at, rng.uniform(3.5, 8))
        z = stop + gap


def _park(scene: Scene, side: int, start: float, end: float, kind: str) -> None:
    rng, front = scene.rng, scene.street.sides[side].front
    z = start
    while z < end:
        if z > 4:
            for row, chance in ((2.5, 0.55), (7.0, 0.6), (13.0, 0.7)):
                if rng.random() < chance:
                    at = z + rng.uniform(-1, 1)
                    _tree(scene, side * (front + row + rng.uniform(-1, 2)), max(at, 6.0), rng.uniform(5, 12))
            if rng.random() < 0.5:
                _bush(scene, side * (front + rng.uniform(1.5, 9)), z, rng.uniform(1, 2.4), rng.uniform(0.8, 2.4))
        if z > 1 and rng.random() < 0.85:
            _bush(scene, side * (front + rng.uniform(15, 20)), z, rng.uniform(4, 6), rng.uniform(4, 9))
        z += rng.uniform(3.5, 6.0)
    if side == scene.sun and rng.random() < 0.6:
        scene.street.cast(start, end, 7 * scene.slope)


def _field(scene: Scene, side: int, start: float, end: float, kind: str) -> None:
    rng, front = scene.rng, scene.street.sides[side].front
    z = max(start, 3.0)
    while z < end:
        if rng.random() < 0.7:
            _bush(scene, side * (front + rng.uniform(18, 30)), z, rng.uniform(3, 7), rng.uniform(1.5, 5))
        if rng.random() < 0.2 and z > 8:
            _tree(scene, side * (front + rng.uniform(2, 14)), z, rng.uniform(4, 8))
        z += rng.uniform(4, 8)
    if rng.random() < 0.4:
        _border(scene, side, start, end, "fence", rng.uniform(0.7, 1.1))


def _walled(scene: Scene, side: int, start: float, end: float, kind: str) -> None:
    rng, front = scene.rng, scene.street.sides[side].front
    _border(scene, side, start, end, kind, rng.uniform(1.2, 2.8) if kind == "wall" else rng.uniform(1.0, 2.0))
    z = max(start, 6.0)
    while z < end:
        if rng.random() < 0.75:
            _tree(scene, side * (front + rng.uniform(2.5, 9)), z, rng.uniform(4, 10))
        z += rng.uniform(3, 6)
    if rng.random() < 0.5:
        _building(scene, Box(side, front + rng.uniform(9, 14), start, end, 12.0, 9.0), 3, True)


def _places(scene: Scene, density: float, first: float, last: float) -> Iterator[float]:
    """Positions along the road at a density for each 100 m, none in the side road; denser close to the camera."""
    count = int(scene.rng.poisson(density * (last - first) / 100))
    for share in scene.rng.random(count).tolist():
        z = first + (last - first) * share**1.6
        if not scene.blocked(z, 0.5):
            yield z


def _kerb(scene: Scene, side: int) -> None:
    """Parked cars, street trees, lamps, signs and lights along the kerb."""
    rng, layout, plan, domain = scene.rng, scene.domain.layout, scene.street.sides[side], scene.domain
    z = rng.uniform(-2, 4)
    while plan.parking and z < 90:
        if rng.random() < layout.parked and not any(scene.blocked(z + d, 2) for d in (0, 3, 6)):
            kind = TRUCK if rng.random() < 0.05 else CAR
            _vehicle(scene, kind, side * (plan.edge - plan.parking / 2 + rng.normal(0, 0.08)), z + (0 if side > 0 else 4.6), side)
            z += 3.5 if kind == TRUCK else 0
        z += rng.uniform(5.4, 6.4)
    strip = plan.edge + (plan.verge / 2 if plan.verge else 0.8)
    for z in _places(scene, layout.trees * 1.3, 8, 110):
        _tree(scene, side * (strip + 0.2), z, rng.uniform(4.5, 9))
    post = side * (plan.edge + 0.4)
    for z in _places(scene, layout.poles * 1.4, 6, 90):
        _furniture(scene, post, z, int(rng.choice(4, p=(0.34, 0.40, 0.08, 0.18))), -side)
    if scene.street.crossing and rng.random() < 0.75:
        _furniture(scene, post, scene.street.crossing[0] - 1.2, 2, -side)
    for z in _places(scene, layout.riders * 0.7, 6, 50):
        motor, x = bool(rng.random() < 0.35), side * (plan.front - 0.8)
        scene.contact.append(scene.disc(x, z, (0.9, 0.25)))
        scene.board(x, z, lambda board, motor=motor: paint_two_wheeler(  # type: ignore[misc]
            board, rng, domain, motor=motor, ridden=False, broadside=True, lit=scene.sides))  # fmt: skip


def _furniture(scene: Scene, x: float, z: float, kind: int, towards: int) -> None:
    """A lamp (0), sign (1), traffic light (2) or post (3)."""
    rng, domain, sun = scene.rng, scene.domain, scene.sun
    painters: tuple[Callable[[Board], None], ...] = (
        lambda board: paint_lamp(board, rng, domain, towards, sun),
        lambda board: paint_sign(board, rng, domain, sun, min(1.0, scene.gable + 0.1)),
        lambda board: paint_light(board, rng, domain, sun),
        lambda board: paint_bollard(board, rng, domain, sun),
    )
    scene.board(x, z, painters[kind])
    scene.contact.append(scene.disc(x, z, (0.2, 0.2)))


def _vehicle(scene: Scene, kind: int, x: float, z: float, side: int, heading: float | None = None) -> float:
    """Adds a vehicle whose rear is at ``(x, z)``: driving away on the right, coming on the left. Gives its length."""
    rng = scene.rng
    angle = (0.0 if side > 0 else math.pi) if heading is None else heading
    vehicle = make_vehicle(rng, kind, x, z, angle + rng.normal(0, 0.02))
    middle = z + vehicle.length / 2 * math.cos(angle)
    scene.items.append((middle, lambda canvas: paint_vehicle(canvas, rng, scene.domain, vehicle, scene.sides)))
    scene.contact.append(vehicle.footprint(0.12))
    shadow = vehicle.footprint(0.0)
    shadow[:, 0] -= scene.sun * vehicle.height * scene.slope * 0.5
    scene.cast.append(shadow)
    return vehicle.length


def _pedestrians(scene: Scene, side: int) -> None:
    rng, plan, layout, domain = scene.rng, scene.street.sides[side], scene.domain.layout, scene.domain
    for z in _places(scene, layout.people * 0.6, 5, 75):
        x = side * rng.uniform(plan.edge + plan.verge + 0.3, plan.front - 0.2)
        for _ in range(1 + int(rng.random() < 0.35)):
            scene.board(x, z, lambda board: paint_person(board, rng, domain, scene.sides))
            scene.contact.append(scene.disc(x, z, (0.3, 0.2)))
            x += 0.65
    for z in _places(scene, layout.riders * 0.8, 7, 55):
        motor, x = bool(rng.random() < 0.35), side * (plan.edge - plan.parking - 0.8)
        scene.contact.append(scene.disc(x, z, (0.3, 0.8)))
        scene.board(x, z, lambda board, motor=motor: paint_two_wheeler(  # type: ignore[misc]
            board, rng, domain, motor=motor, ridden=True, broadside=False, lit=scene.sides))  # fmt: skip


def _traffic(scene: Scene) -> None:
    """Moving vehicles, lane by lane; the camera's own lane is free nearby."""
    rng, street = scene.rng, scene.street
    gap = 100.0 / max(scene.domain.layout.traffic, 0.1)
    for side in (-1, 1):
        for lane in range(street.lanes):
            x = side * street.lane * (lane + 0.5)
            z = (7.0 if side < 0 else 10.0) + rng.exponential(gap)
            while z < 120:
                kind = int(rng.choice((CAR, TRUCK, BUS), p=(0.80, 0.11, 0.09)))
                # an oncoming vehicle's rear is its far end
                length = _vehicle(scene, kind, x + rng.normal(0, 0.15), z + (0 if side > 0 else 12), side)
                z += length + 5 + rng.exponential(gap)


def _cross_traffic(scene: Scene) -> None:
    """What moves on the side road and on its zebra crossing."""
    rng, crossing, domain = scene.rng, scene.street.crossing, scene.domain
    if crossing is None:
        return
    middle, half = (crossing[0] + crossing[1]) / 2, scene.street.sides[1].edge
    if rng.random() < 0.4:
        heading = math.pi / 2 if rng.random() < 0.5 else -math.pi / 2
        _vehicle(scene, CAR, rng.uniform(-half - 6, half + 6), middle, 1, heading)
    for z in (crossing[0] - 3.0, crossing[0] - 2.4):
        if rng.random() < 0.35:
            scene.board(rng.uniform(-half, half), z, lambda board: paint_person(board, rng, domain, scene.sides))
    if rng.random() < 0.45:
        motor = bool(rng.random() < 0.35)
        scene.board(rng.uniform(-half, half), crossing[0] + 1, lambda board: paint_two_wheeler(
            board, rng, domain, motor=motor, ridden=True, broadside=True, lit=scene.sides))  # fmt: skip
