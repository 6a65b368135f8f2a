"""People, riders and two-wheelers, painted on upright boards."""

from __future__ import annotations

import numpy as np

from uda.data.streets.buildings import pick, vary
from uda.data.streets.camera import Board, Colour, scale
from uda.data.streets.domains import Domain

PERSON, RIDER, MOTORCYCLE, BICYCLE = 24, 25, 32, 33
_SKIN: tuple[Colour, ...] = ((206, 164, 138), (176, 130, 104), (120, 84, 64), (222, 184, 160))
_HAIR: tuple[Colour, ...] = ((40, 30, 26), (90, 66, 44), (24, 24, 26), (150, 122, 84), (140, 138, 136))
_TYRE: Colour = (24, 24, 26)


def paint_person(board: Board, rng: np.random.Generator, domain: Domain, lit: tuple[float, float]) -> None:
    """Paints a standing or walking person: legs, arms, torso with a shaded half, head and hair."""
    tall = rng.uniform(1.5, 1.88)
    coat, trousers = (vary(rng, pick(rng, domain.palette.cloth), 0.15) for _ in range(2))
    skin, stride, wide = pick(rng, _SKIN), rng.uniform(0.04, 0.26), rng.uniform(0.19, 0.25)
    hip, neck = tall * 0.5, tall * 0.84
    for sign in (-1, 1):
        foot = (sign * stride, 0.04)
        board.limb((sign * 0.07, hip), foot, 0.16, scale(trousers, 0.8 if sign < 0 else 1.0), PERSON)
        board.limb(foot, (foot[0] + 0.14, 0.04), 0.08, (30, 28, 28), PERSON)
        hand = (sign * (wide + 0.04 + stride * 0.4), hip)
        board.limb((sign * wide, neck - 0.06), hand, 0.10, scale(coat, lit[(sign + 1) // 2] * 0.9), PERSON)
        board.disc(hand[0], hand[1], (0.05, 0.05), skin, PERSON)
    bag = rng.random() < 0.3
    if bag:
        board.box(wide, hip - 0.12, wide + 0.2, hip + 0.2, vary(rng, pick(rng, domain.palette.cloth)), PERSON)
    torso = [
        (-wide * 0.85, hip - 0.1),
        (-wide, neck - 0.05),
        (-0.06, neck),
        (0.06, neck),
        (wide, neck - 0.05),
        (wide * 0.85, hip - 0.1),
    ]
    board.poly(torso, scale(coat, lit[1]), PERSON)
    board.poly([*torso[:3], (0.0, neck), (0.0, hip - 0.1)], scale(coat, lit[0]), PERSON)
    board.disc(0, tall * 0.925, (tall * 0.058, tall * 0.075), scale(pick(rng, _HAIR), 0.5 + lit[0] / 2), PERSON)
    board.disc(0.02, tall * 0.905, (tall * 0.046, tall * 0.055), scale(skin, lit[1]), PERSON)


def _wheel(board: Board, at: float, radius: float, thick: float, label: int) -> None:
    board.disc(at, radius, (radius, radius), _TYRE, label, ring=thick)
    board.disc(at, radius, (0.05, 0.05), (90, 90, 92), label)


def paint_two_wheeler(
    board: Board,
    rng: np.random.Generator,
    domain: Domain,
    *,
    motor: bool,
    ridden: bool,
    broadside: bool,
    lit: tuple[float, float],
) -> None:
    """Paints a bicycle or motorcycle, seen from the side or from an end, with or without its rider."""
    frame = vary(rng, pick(rng, domain.palette.paint), 0.2)
    flip = 1 if rng.random() < 0.5 else -1
    if broadside:
        _broadside(board, frame, flip, motor)
    else:
        _end_on(board, frame, motor)
    if ridden:
        _rider(board, rng, domain, flip, broadside, motor, lit)


def _broadside(board: Board, frame: Colour, flip: int, motor: bool) -> None:
    label = MOTORCYCLE if motor else BICYCLE
    base = 0.70 if motor else 0.55
    radius = 0.31 if motor else 0.34
    for at in (-base, base):
        _wheel(board, at * flip, radius, 0.14 if motor else 0.06, label)

    def bar(a: tuple[float, float], b: tuple[float, float], width: float, colour: Colour) -> None:
        board.limb((a[0] * flip, a[1]), (b[0] * flip, b[1]), width, colour, label)

    if motor:
        corners = [(-0.55, 0.5), (-0.5, 0.75), (0.1, 0.85), (0.45, 0.95), (0.5, 0.6), (0.2, 0.25), (-0.25, 0.25)]
        board.poly([(a * flip, u) for a, u in corners], frame, label)
        bar((-0.6, 0.78), (0.05, 0.82), 0.12, _TYRE)
        bar((base, radius), (0.42, 1.05), 0.09, (150, 150, 152))
        bar((-0.3, 0.32), (-0.9, 0.36), 0.09, (150, 150, 152))
        return
    hub, crank, seat, head = (-base, radius), (-0.08, 0.30), (-0.2, 0.88), (0.38, 0.86)
    for a, b in ((hub, crank), (crank, head), (crank, seat), (seat, head), (hub, seat), (head, (base, radius))):
        bar(a, b, 0.055, frame)
    bar((0.36, 0.86), (0.34, 1.02), 0.05, frame)
    bar((0.26, 1.02), (0.44, 1.02), 0.05, _TYRE)
    bar((-0.32, 0.92), (-0.1, 0.92), 0.08, _TYRE)


def _end_on(board: Board, frame: Colour, motor: bool) -> None:
    label = MOTORCYCLE if motor else BICYCLE
    wide = 0.09 if motor else 0.035
    board.disc(0, 0.33, (wide, 0.34), _TYRE, label)
    board.limb((0, 0.4), (0, 0.95), wide * 2.2 if not motor else 0.34, frame, label)
    board.box(-0.32, 1.0, 0.32, 1.06, _TYRE, label)
    if motor:
        board.disc(0, 0.85, (0.1, 0.08), (230, 224, 200), label)
    else:
        board.box(-0.1, 0.86, 0.1, 0.94, _TYRE, label)
        board.disc(0, 0.62, (0.04, 0.04), (190, 30, 30), label)


def _rider(
    board: Board,
    rng: np.random.Generator,
    domain: Domain,
    flip: int,
    broadside: bool,
    motor: bool,
    lit: tuple[float, float],
) -> None:
    coat, trousers = (vary(rng, pick(rng, domain.palette.cloth), 0.15) for _ in range(2))
    skin = pick(rng, _SKIN)
    helmet = pick(rng, ((200, 196, 190), (30, 30, 34), (170, 50, 44), (90, 66, 44)))
    lean = 0.22 if broadside else 0.0
    hip, chest = (-0.15 * flip * bool(lean), 0.9), (lean * 0.8 * flip, 1.42)
    for sign in (-1, 1):
        out = 0.0 if broadside else 0.14 * sign
        knee = (hip[0] + 0.30 * flip if broadside else out * 1.2, 0.62 + 0.08 * sign)
        foot = (hip[0] + (0.05 + 0.1 * sign) * flip if broadside else out, 0.26 + 0.08 * sign)
        board.limb((hip[0] + out * 0.6, hip[1]), knee, 0.17, scale(trousers, lit[(sign + 1) // 2]), RIDER)
        board.limb(knee, foot, 0.13, scale(trousers, lit[(sign + 1) // 2] * 0.9), RIDER)
        hand = (0.36 * flip, 1.02) if broadside else (0.30 * sign, 1.05)
        board.limb((chest[0] + out, chest[1] - 0.06), hand, 0.10, scale(coat, 0.85), RIDER)
    board.limb(hip, chest, 0.40 if not broadside else 0.30, scale(coat, lit[1]), RIDER)
    if not broadside:
        board.limb((hip[0] - 0.1, hip[1]), (chest[0] - 0.1, chest[1]), 0.2, scale(coat, lit[0]), RIDER)
    head = (chest[0] + 0.10 * flip * bool(lean), chest[1] + 0.17)
    board.disc(head[0], head[1], (0.11, 0.13), scale(skin, lit[1]), RIDER)
    board.disc(head[0], head[1] + 0.05, (0.125, 0.11) if motor else (0.12, 0.09), scale(helmet, lit[1]), RIDER)
