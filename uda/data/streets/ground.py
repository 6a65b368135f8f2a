"""Sky and ground of a street scene, computed for each pixel from where its ray meets the road's plane."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from uda.data.streets.camera import Canvas, Colour, Floats
from uda.data.streets.domains import Domain
from uda.opencv import cv2

Singles = NDArray[np.float32]
ROAD, SIDEWALK, TERRAIN, SKY = 7, 8, 22, 23
FAR = 170.0
"""Metres to which a street is laid out."""
_BIN = 0.5  # metres for each entry of a shadow's profile


@dataclass(frozen=True)
class Side:
    """One side of the road, distances from the road's edge outwards, metres."""

    edge: float
    """Distance of the road's edge from the centre line."""
    parking: float
    """Width of the parking lane, which is part of the road."""
    verge: float
    sidewalk: float

    @property
    def front(self) -> float:
        """Distance of gardens or façades from the centre line."""
        return self.edge + self.verge + self.sidewalk


@dataclass
class Street:
    """The ground plan that the pixels of the ground are looked up in."""

    sides: dict[int, Side]
    """By -1 left, 1 right."""
    lane: float
    lanes: int
    crossing: tuple[float, float] | None
    """Start and end of a side road along z."""
    road: Colour
    sidewalk: Colour
    terrain: Colour
    marking: Colour
    dashed: bool
    zebra: bool
    paved: list[tuple[int, float, float]] = field(default_factory=list)
    """Frontages with paving instead of grass: side, start, end."""
    shadows: Floats = field(default_factory=lambda: np.zeros(int(FAR / _BIN) + 1))
    """How far shadows of the frontage reach from it, for each half metre of z."""

    def cast(self, start: float, end: float, length: float) -> None:
        """Adds a shadow of a façade from ``start`` to ``end``."""
        part = self.shadows[max(0, int(start / _BIN)) : max(0, int(end / _BIN))]
        np.maximum(part, length, out=part)


def noise(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> NDArray[np.float32]:
    """Smooth noise of about unit deviation, ``cell`` pixels wide."""
    small = (max(2, int(shape[0] / cell) + 2), max(2, int(shape[1] / cell) + 2))
    field_ = rng.standard_normal(small, np.float32)
    return np.asarray(cv2.resize(field_, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC), np.float32) * 1.4


def paint_sky(canvas: Canvas, domain: Domain, rng: np.random.Generator, sun: int) -> None:
    """Fills everything with sky: brighter towards the horizon and the sun, with clouds."""
    height, width = canvas.buffer.shape[:2]
    light, horizon = domain.light, max(canvas.camera.centre[1], 1.0)
    rows = min(height, int(horizon) + 4)
    down = np.clip(np.arange(rows, dtype=np.float32) / horizon, 0, 1)[:, None, None]
    sky = np.array(light.zenith, np.float32) * (1 - down) + np.array(light.low, np.float32) * down
    across = np.linspace(-1, 1, width, dtype=np.float32)[None] * sun
    clouds = noise(rng, (rows, width), height / 5) + noise(rng, (rows, width), height / 12) * 0.5
    gain = (1 + 0.05 * across) * (1 + light.clouds * np.clip(clouds, -1.2, 1.2))
    canvas.buffer[:rows, :, :3] = np.clip(sky * gain[..., None], 0, 255).astype(np.uint8)
    canvas.buffer[rows:, :, :3] = np.array(light.low, np.uint8)
    canvas.buffer[..., 3] = SKY


def _surfaces(street: Street, across: Singles, forward: Singles) -> tuple[Singles, NDArray[np.uint8], Singles]:
    """Colour ``(rows, width, 3)``, label and brightness of the ground without light."""
    label = np.full(across.shape, TERRAIN, np.uint8)
    table = np.zeros((256, 3), np.float32)
    table[TERRAIN], table[ROAD], table[SIDEWALK] = street.terrain, street.road, street.sidewalk
    for sign, side in street.sides.items():
        out = across * sign
        label[(out >= 0) & (out < side.edge)] = ROAD
        label[(out >= side.edge + side.verge) & (out < side.front)] = SIDEWALK
    for sign, start, end in street.paved:
        label[(across * sign >= street.sides[sign].front) & (forward >= start) & (forward < end)] = SIDEWALK
    if street.crossing:
        label[(forward > street.crossing[0]) & (forward < street.crossing[1])] = ROAD
    gain = np.ones(label.shape, np.float32)
    road, walk = label == ROAD, label == SIDEWALK
    for sign, side in street.sides.items():  # kerb, gutter and the darker parking lane
        out = across * sign - side.edge
        gain[walk & (np.abs(out - side.verge) < 0.18)] = 1.22
        gain[road & (np.abs(out + 0.12) < 0.12)] = 0.8
        gain[road & (out > -side.parking) & (out < 0)] *= 0.92
    return table[label], label, gain


def _markings(street: Street, across: Singles, forward: Singles, label: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where the road is painted."""
    road = label == ROAD
    inside = np.ones_like(road)
    if street.crossing:
        inside = (forward < street.crossing[0] - 1) | (forward > street.crossing[1] + 1)
    dash = np.mod(forward, 6.0 if street.lane < 3.3 else 9.0) < 3.0
    paint = (np.abs(across) < 0.08) & (dash | (not street.dashed))
    for sign, side in street.sides.items():
        out = across * sign
        for lane in range(1, street.lanes):
            paint |= (np.abs(out - lane * street.lane) < 0.07) & dash
        if side.parking or side.verge:
            paint |= np.abs(out - (side.edge - side.parking - 0.25)) < 0.07
    paint = paint & inside
    if street.crossing and street.zebra:
        band = (forward > street.crossing[0] - 4.5) & (forward < street.crossing[0] - 1.5)
        paint |= band & (np.mod(across, 1.1) < 0.55)
    return np.asarray(paint & road)


def _texture(
    domain: Domain, rng: np.random.Generator, across: Singles, forward: Singles
) -> dict[int, NDArray[np.float32]]:
    """Brightness noise of the ground's materials, laid on the plane so that it follows the perspective."""
    grain = rng.standard_normal((256, 256), np.float32)
    tile = np.asarray(cv2.GaussianBlur(grain, (0, 0), 1.0, borderType=cv2.BORDER_REFLECT), np.float32) * 2.5
    coarse = np.asarray(cv2.GaussianBlur(grain, (0, 0), 6.0, borderType=cv2.BORDER_REFLECT), np.float32) * 12
    x, z = across, forward

    def look(image: NDArray[np.float32], per_metre: tuple[float, float]) -> NDArray[np.float32]:
        wrapped = cv2.remap(image, x * per_metre[0], z * per_metre[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        return np.asarray(wrapped, np.float32)

    fade = np.exp(-z / 30).astype(np.float32)  # far grain is finer than a pixel
    fine, patches = look(tile, (14.0, 8.0)) * fade, look(coarse, (7.0, 2.2))
    tracks = np.cos(x * (2 * np.pi / 1.75)) * 0.5
    texture = domain.texture
    road = 1 + texture.asphalt * (fine + 0.6 * patches + 0.5 * tracks)
    grass = 1 + texture.grass * (0.7 * fine + 0.5 * patches)
    walk = 1 + texture.asphalt * (0.6 * fine + 0.5 * patches)
    if texture.slabs:
        joint = (np.mod(x, texture.slabs) < 0.06) | (np.mod(z, texture.slabs) < 0.06)
        walk = walk * np.where(joint & (z < 30), np.float32(0.82), np.float32(1))
    return {ROAD: road, TERRAIN: grass, SIDEWALK: walk}


def paint_ground(
    canvas: Canvas,
    domain: Domain,
    street: Street,
    rng: np.random.Generator,
    sun: int,
    shade: float,
    shadow: tuple[NDArray[np.uint8], NDArray[np.uint8]],
) -> None:
    """Paints road, sidewalks and terrain below the horizon with markings, texture and shadows.

    ``shadow`` are canvas-sized masks (0 to 255) of cast and of contact shadows; ``sun`` is the side the sun is on.
    """
    top, *plane = canvas.camera.ground()
    across, forward = plane[0].astype(np.float32), plane[1].astype(np.float32)
    if top >= canvas.buffer.shape[0]:
        return
    colour, label, gain = _surfaces(street, across, forward)
    paint = _markings(street, across, forward, label)
    worn = (0.75 + 0.25 * np.clip(noise(rng, label.shape, 9), -1, 1))[paint][:, None]
    colour[paint] = colour[paint] * (1 - worn) + np.array(street.marking, np.float32) * worn
    for code, field_ in _texture(domain, rng, across, forward).items():
        here = label == code
        gain[here] *= field_[here]
    reach = street.shadows.astype(np.float32)[np.clip((forward / _BIN).astype(np.intp), 0, len(street.shadows) - 1)]
    near_sun = street.sides[sun].front - across * sun  # metres from the frontage on the sun's side
    cast = np.clip((reach - near_sun) / 0.5, 0, 1)
    dark = np.maximum(cast, shadow[0][top:] * np.float32(1 / 255))
    gain = gain * (1 - np.float32(1 - shade) * dark) * (1 - np.float32(0.65 / 255) * shadow[1][top:])
    air = (1 - np.exp(-np.abs(forward) / np.float32(canvas.visibility)))[..., None]
    colour = colour * gain[..., None] * (1 - air) + np.array(canvas.haze, np.float32) * air
    canvas.buffer[top:, :, :3] = np.clip(colour, 0, 255).astype(np.uint8)
    canvas.buffer[top:, :, 3] = label
