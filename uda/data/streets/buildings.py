"""Terraces, houses, garden walls and fences along the road."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from uda.data.streets.camera import Canvas, Colour, Floats, mix, scale
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


def _cells(count: int, storeys: int, pitch: float, first: float, step: float, size: tuple[float, float]) -> tuple[Floats, Floats]:
    """Corners ``(count * storeys, 4)`` along and up of a grid of rectangles of a size (width, height)."""
    across = (np.arange(count) + 0.5) * pitch
    up = first + np.arange(storeys) * step
    a, u = (v.ravel()[:, None] for v in np.meshgrid(across, up))
    half = size[0] / 2
    return a + np.array([-half, half, half, -half]), u + np.array([0.0, 0.0, size[1], size[1]])


def _windows(canvas: Canvas, rng: np.random.Generator, domain: Domain, box: Box, lit: tuple[float, float], storeys: int) -> None:
    """Frames and panes on the façade and the gable."""
    step = box.height / storeys
    length = box.end - box.start
    wide, tall = rng.uniform(0.9, 1.4), step * rng.uniform(0.45, 0.6)
    frame = vary(rng, _WHITE if rng.random() < 0.7 else (120, 110, 100))
    glass = vary(rng, domain.palette.glass, 0.15)
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
        a, u = _cells(count, storeys - skip, pitch, first - 0.1, step, (wide + 0.3, tall + 0.22))
        canvas.polys(place(a + base, u), scale(frame, lit[face]), BUILDING)
        a, u = _cells(count, storeys - skip, pitch, first, step, (wide, tall))
        panes = place(a + base, u)
        bright = rng.random(len(panes)) < 0.3  # these mirror the sky
        canvas.polys(panes[~bright], glass, BUILDING)
        canvas.polys(panes[bright], mix(glass, domain.light.low, 0.35), BUILDING)
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
    canvas: Canvas, rng: np.random.Generator, domain: Domain, box: Box, storeys: int, lit: tuple[float, float], *, house: bool
) -> None:
    """Paints a building: gable, façade, base, cornice, windows, door and roof; ``lit`` is the light on façade and gable."""
    palette = domain.palette
    plaster, roof = vary(rng, pick(rng, palette.plaster), 0.1), vary(rng, pick(rng, palette.roof))
    rise = rng.uniform(2.0, 3.5) if house else rng.uniform(0.8, 2.4)
    far_out = rng.random() < 0.6  # ridge along the road, else towards it
    depth, top = box.depth, box.height
    ridge = depth / 2 if far_out else depth
    line = np.array
    if far_out:
        canvas.poly(box.gable(line([0, 0, ridge, depth, depth]), line([0, top, top + rise, top, 0.0])), scale(plaster, lit[1]), BUILDING)
    else:
        canvas.poly(box.gable(line([0, 0, depth, depth]), line([0, top, top, 0.0])), scale(plaster, lit[1]), BUILDING)
        canvas.poly(box.gable(line([0, ridge, ridge]), line([top, top + rise, top])), scale(roof, lit[1]), BUILDING)
    ends, eaves = line([box.start, box.end]), line([top, top])
    slope = np.concatenate([box.facade(ends, eaves), box.facade(ends[::-1], eaves + rise)])
    slope[2:, 0] += box.side * ridge
    canvas.poly(slope, scale(roof, 0.5 + 0.5 * lit[0]), BUILDING)
    around = line([box.start, box.start, box.end, box.end])
    canvas.poly(box.facade(around, line([0, top, top, 0.0])), scale(plaster, lit[0]), BUILDING)
    base = rng.uniform(0.5, 1.1)
    canvas.poly(box.facade(around, line([0, base, base, 0.0])), scale(plaster, lit[0] * 0.78), BUILDING)
    canvas.poly(box.gable(line([0, 0, depth, depth]), line([0, base, base, 0.0])), scale(plaster, lit[1] * 0.78), BUILDING)
    _windows(canvas, rng, domain, box, lit, storeys)
    _doors(canvas, rng, box, lit[0])
    canvas.poly(box.facade(around, line([top - 0.3, top, top, top - 0.3])), scale(mix(plaster, _WHITE, 0.4), lit[0]), BUILDING)
    if house and rng.random() < 0.6:
        out = line([0, 0, 0.7, 0.7]) + ridge * 0.6
        canvas.poly(box.gable(out, line([0.3, 1.5, 1.5, 0.3]) + top + rise * 0.7), scale(roof, 0.7 * lit[1]), BUILDING)


def paint_wall(canvas: Canvas, rng: np.random.Generator, domain: Domain, box: Box, lit: float, colour: Colour) -> None:
    """Paints a garden wall with courses of stone and a coping."""
    around, line = np.array([box.start, box.start, box.end, box.end]), np.array
    canvas.poly(box.facade(around, line([0, box.height, box.height, 0])), scale(colour, lit), WALL)
    courses = np.arange(0.35, box.height - 0.2, 0.4)
    if len(courses):
        lines = np.stack([box.facade(around, line([u, u + 0.05, u + 0.05, u])) for u in courses])
        canvas.polys(lines, scale(colour, lit * 0.8), WALL)
    canvas.poly(box.facade(around, line([0, 0.12, 0.12, 0]) + box.height - 0.12), scale(mix(colour, _WHITE, 0.3), lit), WALL)


def paint_fence(canvas: Canvas, box: Box, lit: float, colour: Colour) -> None:
    """Paints a fence: a dark interior, pales, two rails and posts (labelled as a whole, as the real labels are)."""
    around, line = np.array([box.start, box.start, box.end, box.end]), np.array
    canvas.poly(box.facade(around, line([0.05, box.height, box.height, 0.05])), scale(colour, lit * 0.5), FENCE)
    count = max(2, int((box.end - box.start) / 0.3))
    a, u = _cells(count, 1, (box.end - box.start) / count, 0.05, 1.0, (0.13, box.height))
    canvas.polys(box.facade(a + box.start, u), scale(colour, lit), FENCE)
    rails = np.stack([box.facade(around, line([h, h + 0.1, h + 0.1, h])) for h in (0.3, box.height - 0.15)])
    canvas.polys(rails, scale(colour, lit * 1.15), FENCE)
