"""What moves and stands on a street: vehicles, people, two-wheelers, street trees, lamps, signs and lights."""

from __future__ import annotations

import math
from collections.abc import Callable

from uda.data.streets.camera import Board
from uda.data.streets.figures import paint_person, paint_two_wheeler
from uda.data.streets.roadside import paint_bollard, paint_lamp, paint_light, paint_sign
from uda.data.streets.scene import Scene, add_tree, add_vehicle, places
from uda.data.streets.vehicles import BUS, CAR, TRUCK


def fill_kerb(scene: Scene, side: int) -> None:
    """Parked cars, street trees, lamps, signs and lights along the kerb."""
    rng, layout, plan, domain = scene.rng, scene.domain.layout, scene.street.sides[side], scene.domain
    z = rng.uniform(-2, 4)
    while plan.parking and z < 90:
        if rng.random() < layout.parked and not any(scene.blocked(z + d, 2) for d in (0, 3, 6)):
            kind = TRUCK if rng.random() < 0.05 else CAR
            add_vehicle(
                scene,
                kind,
                side * (plan.edge - plan.parking / 2 + rng.normal(0, 0.08)),
                z + (0 if side > 0 else 4.6),
                side,
            )
            z += 3.5 if kind == TRUCK else 0
        z += rng.uniform(5.4, 6.4)
    strip = plan.edge + (plan.verge / 2 if plan.verge else 0.8)
    for z in places(scene, layout.trees * 1.3, 8, 110):
        add_tree(scene, side * (strip + 0.2), z, rng.uniform(4.5, 9))
    post = side * (plan.edge + 0.4)
    for z in places(scene, layout.poles * 1.4, 6, 90):
        _furniture(scene, post, z, int(rng.choice(4, p=(0.34, 0.40, 0.08, 0.18))), -side)
    if scene.street.crossing and rng.random() < 0.75:
        _furniture(scene, post, scene.street.crossing[0] - 1.2, 2, -side)
    for z in places(scene, layout.riders * 0.7, 6, 50):
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


def add_people(scene: Scene, side: int) -> None:
    rng, plan, layout, domain = scene.rng, scene.street.sides[side], scene.domain.layout, scene.domain
    for z in places(scene, layout.people * 0.6, 5, 75):
        x = side * rng.uniform(plan.edge + plan.verge + 0.3, plan.front - 0.2)
        for _ in range(1 + int(rng.random() < 0.35)):
            scene.board(x, z, lambda board: paint_person(board, rng, domain, scene.sides))
            scene.contact.append(scene.disc(x, z, (0.3, 0.2)))
            x += 0.65
    for z in places(scene, layout.riders * 0.8, 7, 55):
        motor, x = bool(rng.random() < 0.35), side * (plan.edge - plan.parking - 0.8)
        scene.contact.append(scene.disc(x, z, (0.3, 0.8)))
        scene.board(x, z, lambda board, motor=motor: paint_two_wheeler(  # type: ignore[misc]
            board, rng, domain, motor=motor, ridden=True, broadside=False, lit=scene.sides))  # fmt: skip


def add_traffic(scene: Scene) -> None:
    """Moving vehicles, lane by lane; the camera's own lane is free nearby."""
    rng, street = scene.rng, scene.street
    gap = 100.0 / max(scene.domain.layout.traffic, 0.1)
    for side in (-1, 1):
        for lane in range(street.lanes):
            x = side * street.lane * (lane + 0.5)
            z = (7.0 if side < 0 else 10.0) + rng.exponential(gap)
            while z < 120:
                kind = int(rng.choice((CAR, TRUCK, BUS), p=(0.84, 0.09, 0.07)))
                # an oncoming vehicle's rear is its far end
                length = add_vehicle(scene, kind, x + rng.normal(0, 0.15), z + (0 if side > 0 else 12), side)
                z += length + 5 + rng.exponential(gap)


def add_cross_traffic(scene: Scene) -> None:
    """What moves on the side road and on its zebra crossing."""
    rng, crossing, domain = scene.rng, scene.street.crossing, scene.domain
    if crossing is None:
        return
    middle, half = (crossing[0] + crossing[1]) / 2, scene.street.sides[1].edge
    if rng.random() < 0.4:
        heading = math.pi / 2 if rng.random() < 0.5 else -math.pi / 2
        add_vehicle(scene, CAR, rng.uniform(-half - 6, half + 6), middle, 1, heading)
    for z in (crossing[0] - 3.0, crossing[0] - 2.4):
        if rng.random() < 0.35:
            scene.board(rng.uniform(-half, half), z, lambda board: paint_person(board, rng, domain, scene.sides))
    if rng.random() < 0.45:
        motor = bool(rng.random() < 0.35)
        scene.board(rng.uniform(-half, half), crossing[0] + 1, lambda board: paint_two_wheeler(
            board, rng, domain, motor=motor, ridden=True, broadside=True, lit=scene.sides))  # fmt: skip
