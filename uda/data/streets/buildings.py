"""Terraces, houses, garden walls and fences along the road."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from uda.data.streets.camera import Canvas, Colour, Floats, Point, mix, scale
from uda.data.streets.domains import Domain

T = TypeVar("T")
BUILDING, WALL, FENCE = 11, 12, 13
_WHITE: Colour = (235, 232, 224)


def pick(rng: np.random.Generator, items: tuple[T, ...]) -> T:
    """One of the items."""
    return items[int(rng.integers(len(items)))]


def vary(rng: np.random.Generator, colour: Colour, spread: float = 0.08) -> Colour:
    """A colour of slightly different brightness and hue."""
    gain = 1 + rng.normal(0, spread)
    r, g, b = rng.normal(0, spread * 0.25, 3).tolist()
    return (max(4.0, colour[0] * (gain + r)), max(4.0, colour[1] * (gain + g)), max(4.0, colour[2] * (gain + b)))


@dataclass(frozen=True)
class Box:
    """The block of a building: ``front`` is the distance of its façade from the road's centre line."""

    side: int
    front: float
    start: float
    end: float
    depth: float
    height: float

    def facade(self, along: Floats, up: Floats) -> Floats:
        """World points of the street face at positions along the road and up."""
        return np.stack([np.full_like(along, self.side * self.front), up, along], -1)

    def gable(self, out: Floats, up: Floats) -> Floats:
        """World points of the near end face at distances behind the façade and up."""
        return np.stack([self.side * (self.front + out), up, np.full_like(out, self.start)], -1)

    def front_face(self, low: float, high: float) -> list[Point]:
        """A band of the whole street face between two heights."""
        x = self.side * self.front
        return [(x, low, self.start), (x, high, self.start), (x, high, self.end), (x, low, self.end)]

    def end_face(self, corners: Sequence[tuple[float, float]]) -> list[Point]:
        """A polygon on the near end face: distances behind the façade and up."""
        return [(self.side * (self.front + out), up, self.start) for out, up in corners]


def _cells(
    count: int, storeys: int, pitch: float, first: float, step: float, size: tuple[float, float]
) -> tuple[Floats, Floats]:
    """Corners ``(count * storeys, 4)`` along and up of a grid of rectangles of a size (width, height)."""
    across = (np.arange(count) + 0.5) * pitch
    up = first + np.arange(storeys) * step
    a, u = (v.ravel()[:, None] for v in np.meshgrid(across, up))
    half = size[0] / 2
    return a + np.array([-half, half, half, -half]), u + np.array([0.0, 0.0, size[1], size[1]])


def _windows(
    canvas: Canvas, rng: np.random.Generator, domain: Domain, box: Box, lit: tuple[float, float], storeys: int
) -> None:
    """Frames and panes on the façade and the gable."""
    step = box.height / storeys
    length = box.end - box.start
    wide, tall = rng.uniform(0.9, 1.4), step * rng.uniform(0.45, 0.6)
    frame = vary(rng, _WHITE if rng.random() < 0.7 else (120, 110, 100))
    glass = vary(rng, domain.palette.glass, 0.15)
    near = box.start < 45  # frames of further windows are finer than a pixel
    shop = storeys > 2 and rng.random() < 0.45
    for face in range(2):
        span = length if face == 0 else box.depth
        count = max(1, int(span / rng.uniform(2.3, 3.2)))
        place = box.facade if face == 0 else box.gable
        pitch = span / count
        skip = 1 if shop and face == 0 else 0
        if storeys - skip < 1 or (face == 1 and rng.random() < 0.35):
            continue
        base = box.start if face == 0 else 0.0
        first = step * (skip + 0.28)
        a, u = _cells(count, storeys - skip, pitch, first, step, (wide, tall))
        if near:
            rim = np.array([-0.15, 0.15, 0.15, -0.15]), np.array([-0.1, -0.1, 0.12, 0.12])
            canvas.polys(place(a + base + rim[0], u + rim[1]), scale(frame, lit[face]), BUILDING)
        panes = place(a + base, u)
        bright = rng.random(len(panes)) < 0.3  # these mirror the sky
        canvas.polys(panes[~bright], glass, BUILDING)
        canvas.polys(panes[bright], mix(glass, domain.light.low, 0.35), BUILDING)
        if near:
            a, u = _cells(count, storeys - skip, pitch, first, step, (0.09, tall))
            canvas.polys(place(a + base, u), scale(frame, lit[face] * 0.9), BUILDING)
    if shop:
        _shops(canvas, rng, box, lit[0], step, glass)


def _shops(canvas: Canvas, rng: np.random.Generator, box: Box, lit: float, step: float, glass: Colour) -> None:
    """Large panes on the ground floor with a coloured band above."""
    count = max(1, int((box.end - box.start) / 4.5))
    pitch = (box.end - box.start) / count
    a, u = _cells(count, 1, pitch, 0.4, step, (pitch * 0.8, step * 0.55))
    canvas.polys(box.facade(a + box.start, u), scale(glass, 1.15), BUILDING)
    colours = ((150, 40, 40), (40, 70, 120), (190, 160, 60), (60, 100, 70), (200, 196, 190))
    a, u = _cells(count, 1, pitch, step * 0.72, step, (pitch * 0.9, step * 0.16))
    canvas.polys(box.facade(a + box.start, u), scale(vary(rng, pick(rng, colours)), lit), BUILDING)


def _doors(canvas: Canvas, rng: np.random.Generator, box: Box, lit: float) -> None:
    """One door, with a step."""
    at = rng.uniform(box.start + 1, max(box.start + 1.1, box.end - 1))
    colour = vary(rng, pick(rng, ((84, 54, 40), (50, 60, 66), (96, 90, 84))))
    a, u = np.array([[-0.55, 0.55, 0.55, -0.55]]) + at, np.array([[0.1, 0.1, 2.2, 2.2]])
    canvas.polys(box.facade(a, u), scale(colour, lit), BUILDING)


def paint_building(
    canvas: Canvas,
    rng: np.random.Generator,
    domain: Domain,
    box: Box,
    storeys: int,
    lit: tuple[float, float],
    *,
    house: bool,
) -> None:
    """Paints gable, façade, base, cornice, windows, door and roof; ``lit`` is the light on façade and gable."""
    palette = domain.palette
    plaster, roof = vary(rng, pick(rng, palette.plaster), 0.1), vary(rng, pick(rng, palette.roof))
    rise = rng.uniform(2.0, 3.5) if house else rng.uniform(0.8, 2.4)
    far_out = rng.random() < 0.6  # ridge along the road, else towards it
    depth, top = box.depth, box.height
    ridge = depth / 2 if far_out else depth
    wall, tiles = scale(plaster, lit[1]), scale(roof, lit[1])
    if far_out:
        canvas.poly(box.end_face([(0, 0), (0, top), (ridge, top + rise), (depth, top), (depth, 0)]), wall, BUILDING)
    else:
        canvas.poly(box.end_face([(0, 0), (0, top), (depth, top), (depth, 0)]), wall, BUILDING)
        canvas.poly(box.end_face([(0, top), (ridge, top + rise), (ridge, top)]), tiles, BUILDING)
    near, far = box.side * box.front, box.side * (box.front + ridge)
    slope = [(near, top, box.start), (near, top, box.end), (far, top + rise, box.end), (far, top + rise, box.start)]
    canvas.poly(slope, scale(roof, 0.5 + 0.5 * lit[0]), BUILDING)
    base = rng.uniform(0.5, 1.1)
    canvas.poly(box.front_face(0, top), scale(plaster, lit[0]), BUILDING)
    canvas.poly(box.front_face(0, base), scale(plaster, lit[0] * 0.78), BUILDING)
    canvas.poly(box.end_face([(0, 0), (0, base), (depth, base), (depth, 0)]), scale(wall, 0.78), BUILDING)
    _windows(canvas, rng, domain, box, lit, storeys)
    _doors(canvas, rng, box, lit[0])
    canvas.poly(box.front_face(top - 0.3, top), scale(mix(plaster, _WHITE, 0.4), lit[0]), BUILDING)
    if house and rng.random() < 0.6:
        out, up = ridge * 0.6, top + rise * 0.7
        chimney = [(out, up), (out, up + 1.3), (out + 0.7, up + 1.3), (out + 0.7, up)]
        canvas.poly(box.end_face(chimney), scale(roof, 0.7 * lit[1]), BUILDING)


def paint_wall(canvas: Canvas, box: Box, lit: float, colour: Colour) -> None:
    """Paints a garden wall with courses of stone and a coping."""
    canvas.poly(box.front_face(0, box.height), scale(colour, lit), WALL)
    for up in np.arange(0.35, box.height - 0.2, 0.4).tolist():
        canvas.poly(box.front_face(up, up + 0.05), scale(colour, lit * 0.8), WALL)
    canvas.poly(box.front_face(box.height - 0.12, box.height), scale(mix(colour, _WHITE, 0.3), lit), WALL)


def paint_fence(canvas: Canvas, box: Box, lit: float, colour: Colour) -> None:
    """Paints a fence: a dark interior, pales and two rails (labelled as a whole, as the real labels are)."""
    canvas.poly(box.front_face(0.05, box.height), scale(colour, lit * 0.5), FENCE)
    count = max(2, int((box.end - box.start) / 0.3))
    a, u = _cells(count, 1, (box.end - box.start) / count, 0.05, 1.0, (0.13, box.height))
    canvas.polys(box.facade(a + box.start, u), scale(colour, lit), FENCE)
    for up in (0.3, box.height - 0.15):
        canvas.poly(box.front_face(up, up + 0.1), scale(colour, lit * 1.15), FENCE)
