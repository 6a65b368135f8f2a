"""Draws the layout of a street of a domain."""

from __future__ import annotations

import numpy as np

from uda.data.streets.buildings import pick, vary
from uda.data.streets.domains import Domain
from uda.data.streets.frontage import line_road
from uda.data.streets.ground import Side, Street
from uda.data.streets.scene import Scene
from uda.data.streets.traffic import add_cross_traffic, add_people, add_traffic, fill_kerb


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
        line_road(scene, sign)
        fill_kerb(scene, sign)
        add_people(scene, sign)
    add_traffic(scene)
    add_cross_traffic(scene)
    return scene
