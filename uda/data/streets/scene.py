"""A street scene as a list of painters, and how single things are added to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from uda.data.streets.buildings import Box, paint_building
from uda.data.streets.camera import Board, Canvas, Point
from uda.data.streets.domains import Domain
from uda.data.streets.ground import Street
from uda.data.streets.roadside import paint_bush, paint_tree
from uda.data.streets.vehicles import make_vehicle, paint_vehicle

_CIRCLE = tuple((math.cos(k * math.pi / 5), math.sin(k * math.pi / 5)) for k in range(10))


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
    cast: list[list[Point]] = field(default_factory=list)
    """Ground polygons in the shade of something."""
    contact: list[list[Point]] = field(default_factory=list)
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

    def disc(self, x: float, z: float, radii: tuple[float, float]) -> list[Point]:
        """An ellipse on the ground."""
        return [(x + radii[0] * c, 0.02, z + radii[1] * s) for c, s in _CIRCLE]


def add_tree(scene: Scene, x: float, z: float, tall: float) -> None:
    """Adds a tree with its dappled shadow."""
    rng, spread = scene.rng, tall * scene.rng.uniform(0.24, 0.36)
    scene.board(x, z, lambda board: paint_tree(board, rng, scene.domain, tall, spread, scene.sun, scene.shade))
    shift = -scene.sun * tall * scene.slope * 0.6
    scene.contact.append(scene.disc(x, z, (0.5, 0.5)))
    if z < 60:
        for _ in range(9):  # dapples
            dx, dz = rng.normal(0, spread * 0.6, 2).tolist()
            size = spread * rng.uniform(0.2, 0.5)
            scene.cast.append(scene.disc(x + shift + dx * (1 + scene.slope), z + dz, (size * (1 + scene.slope), size)))


def add_bush(scene: Scene, x: float, z: float, wide: float, tall: float) -> None:
    """Adds a bush; it casts no shadow."""
    rng = scene.rng
    scene.board(x, z, lambda board: paint_bush(board, rng, scene.domain, wide, tall, scene.sun, scene.shade))


def add_building(scene: Scene, box: Box, storeys: int, house: bool) -> None:
    """Adds a building with its shadow."""
    rng, lit = scene.rng, (scene.facade(box.side), scene.gable)
    scene.items.append(
        (box.end, lambda canvas: paint_building(canvas, rng, scene.domain, box, storeys, lit, house=house))
    )
    if box.side == scene.sun:
        back = box.front - scene.street.sides[box.side].front
        scene.street.cast(box.start, box.end, box.height * scene.slope - back)


def add_vehicle(scene: Scene, kind: int, x: float, z: float, side: int, heading: float | None = None) -> float:
    """Adds a vehicle whose rear is at ``(x, z)``: driving away on the right, coming on the left. Gives its length."""
    rng = scene.rng
    angle = (0.0 if side > 0 else math.pi) if heading is None else heading
    vehicle = make_vehicle(rng, kind, x, z, angle + rng.normal(0, 0.02))
    middle = z + vehicle.length / 2 * math.cos(angle)
    scene.items.append((middle, lambda canvas: paint_vehicle(canvas, rng, scene.domain, vehicle, scene.sides)))
    scene.contact.append(vehicle.footprint(0.12))
    shift = scene.sun * vehicle.height * scene.slope * 0.5
    scene.cast.append([(px - shift, py, pz) for px, py, pz in vehicle.footprint(0.0)])
    return vehicle.length


def places(scene: Scene, density: float, first: float, last: float) -> Iterator[float]:
    """Positions along the road at a density for each 100 m, none in the side road; denser close to the camera."""
    count = int(scene.rng.poisson(density * (last - first) / 100))
    for share in scene.rng.random(count).tolist():
        z = first + (last - first) * share**1.6
        if not scene.blocked(z, 0.5):
            yield z
