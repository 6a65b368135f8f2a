"""Cars, trucks and buses: convex side profiles extruded to a width."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from uda.data.streets.buildings import pick, vary
from uda.data.streets.camera import Canvas, Colour, Point, mix, scale
from uda.data.streets.domains import Domain

CAR, TRUCK, BUS = 26, 27, 28
Profile = tuple[tuple[float, float], ...]
"""Corners (share of the length from the rear, share of the height), clockwise from the lower rear."""

_BODY: Profile = ((0.0, 0.20), (0.0, 0.60), (0.03, 0.66), (0.72, 0.66), (0.96, 0.54), (1.0, 0.46), (1.0, 0.20))
_CABINS: tuple[Profile, ...] = (
    ((0.10, 0.65), (0.24, 1.0), (0.56, 1.0), (0.76, 0.65)),  # saloon
    ((0.01, 0.65), (0.10, 0.98), (0.52, 1.0), (0.74, 0.65)),  # hatchback
    ((0.01, 0.65), (0.04, 0.98), (0.56, 1.0), (0.76, 0.65)),  # estate
)
_UNDER: Profile = ((0.04, 0.10), (0.04, 0.26), (0.96, 0.26), (0.96, 0.10))
_BOX: Profile = ((0.0, 0.14), (0.0, 1.0), (1.0, 1.0), (1.0, 0.14))
_CAB: Profile = ((0.0, 0.12), (0.0, 1.0), (0.75, 1.0), (1.0, 0.55), (1.0, 0.12))
_BLACK: Colour = (20, 20, 22)
_WHEEL: tuple[tuple[float, Colour], ...] = ((1.0, _BLACK), (0.58, (128, 128, 130)), (0.2, (60, 60, 62)))
_CIRCLE = tuple((math.cos(k * math.pi / 6), math.sin(k * math.pi / 6)) for k in range(12))


@dataclass(frozen=True)
class Vehicle:
    """A vehicle's frame: the middle of its rear edge on the ground, its heading and its size."""

    kind: int
    x: float
    z: float
    heading: float
    """Radians from z to x: 0 drives away, pi comes towards the camera."""
    length: float
    width: float
    height: float

    def world(self, corners: Iterable[Point]) -> list[Point]:
        """World points of local metres: forward, right, up."""
        cos, sin = math.cos(self.heading), math.sin(self.heading)
        return [(self.x + a * sin + r * cos, up, self.z + a * cos - r * sin) for a, r, up in corners]

    def local(self, x: float, z: float) -> tuple[float, float]:
        """Forward and right of a world point, metres."""
        cos, sin = math.cos(self.heading), math.sin(self.heading)
        return (x - self.x) * sin + (z - self.z) * cos, (x - self.x) * cos - (z - self.z) * sin

    def footprint(self, margin: float) -> list[Point]:
        """Corners on the ground, grown by a margin."""
        right, front, rear = self.width / 2 + margin, self.length + margin, -margin
        return self.world([(rear, -right, 0.02), (front, -right, 0.02), (front, right, 0.02), (rear, right, 0.02)])


@dataclass(frozen=True)
class _Painter:
    """Paints parts of one vehicle as seen from the eye."""

    canvas: Canvas
    vehicle: Vehicle
    lit: tuple[float, float]
    """Light on the sides left and right in the world."""

    @property
    def large(self) -> bool:
        """Whether small parts can be seen: the vehicle is at least 14 canvas pixels high."""
        v = self.vehicle
        return self.canvas.camera.focal * v.height > 14 * max(v.z, 1.0)

    def eye(self) -> tuple[float, float, float]:
        camera, v = self.canvas.camera, self.vehicle
        along, right = v.local(camera.eye[0] - camera.bend * v.z * abs(v.z), 0.0)
        return along, right, camera.eye[1]

    def side(self) -> int:
        """The long side that is seen: -1 left, 1 right, 0 none."""
        right = self.eye()[1]
        return 0 if abs(right) < self.vehicle.width / 2 else int(math.copysign(1, right))

    def flank(self) -> float:
        """Light on the long side that is seen."""
        world_right = math.cos(self.vehicle.heading) * self.side()
        return self.lit[1] if world_right > 0.3 else self.lit[0] if world_right < -0.3 else sum(self.lit) / 2

    def extrude(
        self, profile: Profile, colour: Colour, *, taper: float = 1.0, start: float = 0.0, share: float = 1.0
    ) -> list[int]:
        """Paints the visible faces of a profile laid over ``share`` of the length from ``start``.

        ``taper`` is the width of its top relative to its bottom. Gives the indices of the painted edges.
        """
        v, label = self.vehicle, self.vehicle.kind
        pts = [(v.length * (start + share * a), v.height * u) for a, u in profile]
        low, high = min(p[1] for p in pts), max(p[1] for p in pts)
        half = [v.width / 2 * (1 - (1 - taper) * (u - low) / (high - low)) for _, u in pts]
        e_along, _, e_up = self.eye()
        seen = []
        for i, (a0, u0) in enumerate(pts):
            j = (i + 1) % len(pts)
            a1, u1 = pts[j]
            if (u0 - u1) * (e_along - a0) + (a1 - a0) * (e_up - u0) <= 0:
                continue
            seen.append(i)
            flat = abs(a1 - a0) / math.hypot(a1 - a0, u1 - u0)
            light = (0.80 + 0.32 * flat) if a1 >= a0 else 0.5
            face = v.world([(a0, -half[i], u0), (a1, -half[j], u1), (a1, half[j], u1), (a0, half[i], u0)])
            self.canvas.poly(face, scale(colour, light), label)
        if side := self.side():
            face = v.world([(a, h * side, u) for (a, u), h in zip(pts, half, strict=True)])
            self.canvas.poly(face, scale(colour, self.flank()), label)
        return seen

    def end(
        self, front: bool, right: tuple[float, float], up: tuple[float, float], colour: Colour, *, at: float = 0.0
    ) -> None:
        """Paints a rectangle on the rear (or front) end, ``right`` and ``up`` in shares of width and height."""
        v = self.vehicle
        along = v.length * (1 - at) + 0.01 if front else v.length * at - 0.01
        left, far = (right[0] - 0.5) * v.width, (right[1] - 0.5) * v.width
        low, high = up[0] * v.height, up[1] * v.height
        corners = [(along, left, low), (along, left, high), (along, far, high), (along, far, low)]
        self.canvas.poly(v.world(corners), colour, v.kind)

    def panel(self, corners: Profile, colour: Colour, inset: float = 1.0) -> None:
        """Paints a polygon on the seen long side, in shares of length and height."""
        if side := self.side():
            v = self.vehicle
            right = side * v.width / 2 * inset
            self.canvas.poly(v.world([(a * v.length, right, u * v.height) for a, u in corners]), colour, v.kind)

    def wheels(self, shares: tuple[float, ...], radius: float) -> None:
        """Paints wheels on the seen long side, at shares of the length."""
        side, v = self.side(), self.vehicle
        if not side:
            return
        right = side * (v.width / 2 + 0.01)
        for share in shares:
            for size, colour in _WHEEL[: 3 if self.large else 2]:
                ring = [(v.length * share + radius * size * c, right, radius * (1 + size * s)) for c, s in _CIRCLE]
                self.canvas.poly(v.world(ring), colour, v.kind)

    def tyres(self, radius: float) -> None:
        """Paints the tyres as seen below the near end."""
        front = self.eye()[0] > self.vehicle.length / 2
        top = radius / self.vehicle.height
        for left in (0.03, 0.83):
            self.end(front, (left, left + 0.14), (0.0, top), _BLACK, at=0.05)


def make_vehicle(rng: np.random.Generator, kind: int, x: float, z: float, heading: float) -> Vehicle:
    """A vehicle of a kind with a size of its own, its rear at ``(x, z)``."""
    if kind == CAR:
        return Vehicle(kind, x, z, heading, rng.uniform(3.8, 4.7), rng.uniform(1.7, 1.85), rng.uniform(1.4, 1.75))
    if kind == TRUCK:
        return Vehicle(kind, x, z, heading, rng.uniform(6.0, 9.0), rng.uniform(2.2, 2.5), rng.uniform(2.8, 3.6))
    return Vehicle(kind, x, z, heading, rng.uniform(9.0, 12.0), 2.5, rng.uniform(3.0, 3.3))


def paint_vehicle(
    canvas: Canvas, rng: np.random.Generator, domain: Domain, vehicle: Vehicle, lit: tuple[float, float]
) -> None:
    """Paints a vehicle; the part of one that stands beside the camera is cut at the image's edge."""
    painter = _Painter(canvas, vehicle, lit)
    colour = vary(rng, pick(rng, domain.palette.paint), 0.12)
    glass = mix(domain.palette.glass, domain.light.low, 0.12)
    if vehicle.kind == CAR:
        _paint_car(painter, rng, colour, glass)
    elif vehicle.kind == TRUCK:
        _paint_truck(painter, rng, colour, glass)
    else:
        _paint_bus(painter, rng, colour, glass)


def _lamps(painter: _Painter, front: bool, up: tuple[float, float], at: float = 0.0) -> None:
    """Head or tail lamps and the number plate."""
    colour: Colour = (238, 238, 226) if front else (176, 24, 26)
    for left in (0.04, 0.78):
        painter.end(front, (left, left + 0.18), up, colour, at=at)
    painter.end(front, (0.36, 0.64), (up[0] - 0.12, up[0] - 0.04), (226, 226, 220), at=at)


def _paint_car(painter: _Painter, rng: np.random.Generator, colour: Colour, glass: Colour) -> None:
    cabin = pick(rng, _CABINS)
    front = painter.eye()[0] > painter.vehicle.length / 2
    painter.extrude(_UNDER, _BLACK)
    painter.tyres(0.31)
    painter.extrude(_BODY, colour)
    seen = painter.extrude(cabin, colour, taper=0.80)
    v = painter.vehicle
    for edge in (0, 2):  # rear window, windscreen
        if edge in seen:
            (a0, u0), (a1, u1) = cabin[edge], cabin[edge + 1]
            ends = [(a0 + (a1 - a0) * t, u0 + (u1 - u0) * t) for t in (0.12, 0.85)]
            half = [v.width / 2 * (1 - 0.2 * (u - 0.65) / 0.35) * 0.88 for _, u in ends]
            left, right = (
                [(a * v.length, sign * h, u * v.height) for (a, u), h in zip(ends, half, strict=True)]
                for sign in (-1, 1)
            )
            painter.canvas.poly(v.world([*left, *right[::-1]]), scale(glass, 1.25 if edge == 2 else 1.0), v.kind)
    (r0, low), (r1, high), (f1, _), (f0, _) = cabin
    middle = (r1 + f1) / 2
    low, high = low + 0.03, high - 0.06
    rear = r1 + (r0 - r1) * 0.75 + 0.04
    fore = f1 + (f0 - f1) * 0.78 - 0.02
    pane = scale(glass, 0.7 + 0.4 * painter.flank())
    painter.panel(((rear, low), (r1 + 0.03, high), (middle - 0.01, high), (middle - 0.01, low)), pane, 0.9)
    painter.panel(((middle + 0.01, low), (middle + 0.01, high), (f1 - 0.01, high), (fore, low)), pane, 0.9)
    painter.panel(((0.0, 0.20), (0.0, 0.27), (1.0, 0.27), (1.0, 0.20)), scale(colour, 0.45), 1.005)
    painter.panel(((0.46, 0.3), (0.46, 0.64), (0.47, 0.64), (0.47, 0.3)), scale(colour, 0.5), 1.005)
    painter.wheels((0.18, 0.81), 0.32)
    if not painter.large:
        _lamps(painter, front, (0.40, 0.55))
        return
    painter.end(front, (0.0, 1.0), (0.20, 0.29), scale(colour, 0.4))
    _lamps(painter, front, (0.36, 0.45) if front else (0.44, 0.58))
    if front:
        painter.end(front, (0.28, 0.72), (0.34, 0.44), _BLACK)


def _paint_truck(painter: _Painter, rng: np.random.Generator, colour: Colour, glass: Colour) -> None:
    v = painter.vehicle
    front = painter.eye()[0] > v.length / 2
    cargo = vary(rng, pick(rng, ((214, 212, 206), (60, 84, 130), (170, 150, 110), (150, 50, 46), (90, 110, 96))))
    painter.extrude(((0.02, 0.1), (0.02, 0.2), (0.98, 0.2), (0.98, 0.1)), _BLACK)
    painter.tyres(0.48)
    parts = [
        lambda: painter.extrude(_BOX, cargo, share=0.74),
        lambda: painter.extrude(_low(_CAB, 0.82), colour, start=0.76, share=0.24),
    ]
    for part in reversed(parts) if not front else parts:
        part()
    painter.panel(((0.80, 0.46), (0.80, 0.70), (0.93, 0.70), (0.96, 0.46)), glass, 1.005)
    painter.wheels((0.16, 0.30, 0.86), 0.48)
    if front:
        painter.end(True, (0.08, 0.92), (0.46, 0.72), scale(glass, 1.2), at=0.03)
        painter.end(True, (0.2, 0.8), (0.22, 0.36), _BLACK)
    else:
        painter.end(False, (0.49, 0.51), (0.2, 0.97), scale(cargo, 0.5))
        painter.end(False, (0.0, 1.0), (0.12, 0.18), _BLACK)
    _lamps(painter, front, (0.18, 0.23))


def _low(profile: Profile, share: float) -> Profile:
    """A profile of a smaller height."""
    return tuple((a, u * share) for a, u in profile)


def _paint_bus(painter: _Painter, rng: np.random.Generator, colour: Colour, glass: Colour) -> None:
    v = painter.vehicle
    front = painter.eye()[0] > v.length / 2
    colour = vary(rng, pick(rng, ((196, 150, 40), (170, 40, 44), (206, 206, 200), (50, 100, 120))))
    painter.extrude(((0.02, 0.06), (0.02, 0.2), (0.98, 0.2), (0.98, 0.06)), _BLACK)
    painter.tyres(0.48)
    painter.extrude(_BOX, colour)
    for k in range(6):
        a = 0.03 + k * 0.16
        painter.panel(((a, 0.48), (a, 0.84), (a + 0.14, 0.84), (a + 0.14, 0.48)), glass, 1.005)
    painter.panel(((0.0, 0.14), (0.0, 0.24), (1.0, 0.24), (1.0, 0.14)), scale(colour, 0.6), 1.003)
    painter.wheels((0.2, 0.8), 0.48)
    painter.end(front, (0.06, 0.94), (0.42, 0.84), scale(glass, 1.1))
    painter.end(front, (0.25, 0.75), (0.87, 0.96), (30, 30, 24))
    _lamps(painter, front, (0.22, 0.29))
