"""Trees, bushes, lamp posts, signs, traffic lights and the skyline at the end of the road."""

from __future__ import annotations

import numpy as np

from uda.data.streets.buildings import BUILDING, pick, vary
from uda.data.streets.camera import Board, Canvas, Colour, scale
from uda.data.streets.domains import Domain

POLE, LIGHT, SIGN, VEGETATION = 17, 19, 20, 21
_WHITE: Colour = (236, 236, 232)
_RED: Colour = (196, 28, 34)


def paint_tree(
    board: Board, rng: np.random.Generator, domain: Domain, tall: float, spread: float, sun: int, shade: float
) -> None:
    """Paints a trunk and a crown of leaf clumps: dark below and inside, bright above and towards the sun."""
    leaf, bark = vary(rng, pick(rng, domain.palette.leaf), 0.14), vary(rng, domain.palette.bark)
    thick, base = 0.05 * tall * rng.uniform(0.6, 1.1), tall * rng.uniform(0.22, 0.36)
    trunk = [(-thick * 0.7, 0.0), (-thick * 0.4, base * 1.6), (thick * 0.4, base * 1.6), (thick * 0.7, 0.0)]
    board.poly(trunk, scale(bark, 0.8), VEGETATION)
    half = sun * thick * 0.1
    board.poly(
        [(half, 0.0), (half, base), (sun * thick * 0.4, base), (sun * thick * 0.7, 0.0)], scale(bark, 1.1), VEGETATION
    )
    paint_foliage(board, rng, domain, leaf, (0.0, (base + tall) / 2, spread, (tall - base) / 2), sun, shade)


def paint_foliage(
    board: Board,
    rng: np.random.Generator,
    domain: Domain,
    leaf: Colour,
    crown: tuple[float, float, float, float],
    sun: int,
    shade: float,
) -> None:
    """Paints a crown ``(right, up, half width, half height)`` of clumps, from the dark inside to the bright outside."""
    right, up, wide, high = crown
    clump = max(domain.texture.leaf_size, 2.2 / board.gain, wide / 6)
    count = int(np.clip(2.6 * wide * high / clump**2, 6, 80))
    if board.gain * wide > 3:
        board.disc(right, up, (wide * 0.8, high * 0.82), scale(leaf, 0.5 + 0.2 * shade), VEGETATION)
    angle, far = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.uniform(0.05, 1, count))
    x, y = far * np.cos(angle), far * np.sin(angle)
    glow = np.clip(0.5 + 0.32 * y + 0.22 * sun * x + rng.normal(0, 0.14, count), 0, 1)
    dark = 0.45 + 0.35 * shade
    tints = [board.canvas.value(scale(leaf, dark + (1.3 - dark) * k / 8), VEGETATION, board.depth) for k in range(9)]
    order = np.argsort(glow, kind="stable")
    columns = (
        (right + x * wide)[order],
        (up + y * high)[order],
        (clump * rng.uniform(0.6, 1.25, count))[order],
        (glow * 8)[order],
    )
    for across, height, radius, tint in zip(*(values.tolist() for values in columns), strict=True):
        board.ellipse(across, height, (radius, radius * 0.8), tints[int(tint)])


def paint_bush(
    board: Board, rng: np.random.Generator, domain: Domain, wide: float, tall: float, sun: int, shade: float
) -> None:
    """Paints a bush or a piece of hedge."""
    leaf = vary(rng, pick(rng, domain.palette.leaf), 0.14)
    board.box(-wide * 0.85, 0.0, wide * 0.85, tall * 0.6, scale(leaf, 0.45 + 0.25 * shade), VEGETATION)
    paint_foliage(board, rng, domain, leaf, (0.0, tall * 0.5, wide, tall * 0.5), sun, shade)


def _post(board: Board, tall: float, thick: float, colour: Colour, sun: int) -> None:
    board.box(-thick / 2, 0.0, thick / 2, tall, colour, POLE)
    edge = -sun * thick / 2
    board.box(
        min(edge, edge + sun * thick * 0.4), 0.0, max(edge, edge + sun * thick * 0.4), tall, scale(colour, 0.6), POLE
    )


def paint_lamp(board: Board, rng: np.random.Generator, domain: Domain, towards: int, sun: int) -> None:
    """Paints a lamp post whose arm reaches over the road."""
    colour, tall = vary(rng, domain.palette.pole), rng.uniform(6.0, 9.0)
    _post(board, tall, 0.17, colour, sun)
    board.limb((0, tall), (towards * 1.6, tall + 0.3), 0.1, colour, POLE)
    board.box(
        min(towards * 1.2, towards * 2.0),
        tall + 0.2,
        max(towards * 1.2, towards * 2.0),
        tall + 0.38,
        scale(colour, 0.8),
        POLE,
    )


def paint_bollard(board: Board, rng: np.random.Generator, domain: Domain, sun: int) -> None:
    """Paints a short post, some with red and white bands."""
    _post(board, 1.0, 0.14, vary(rng, domain.palette.pole), sun)
    if rng.random() < 0.5:
        for up in (0.35, 0.7):
            board.box(-0.07, up, 0.07, up + 0.18, _RED, POLE)


def paint_sign(board: Board, rng: np.random.Generator, domain: Domain, sun: int, light: float) -> None:
    """Paints a traffic sign on its post: a ban, a warning, an order, a direction board or a give way."""
    tall = rng.uniform(2.2, 2.9)
    _post(board, tall + 0.2, 0.1, vary(rng, domain.palette.pole), sun)
    white, red, r = scale(_WHITE, light), scale(_RED, light), rng.uniform(0.34, 0.46)
    kind = int(rng.integers(5))
    if kind == 0:
        board.disc(0, tall, (r, r), red, SIGN)
        board.disc(0, tall, (r * 0.7, r * 0.7), white, SIGN)
        board.box(-r * 0.3, tall - r * 0.3, r * 0.3, tall + r * 0.3, (40, 40, 42), SIGN)
    elif kind in (1, 4):
        turn = 1 if kind == 1 else -1
        outer = [(-r * 1.1, tall - turn * r * 0.7), (0.0, tall + turn * r * 1.1), (r * 1.1, tall - turn * r * 0.7)]
        board.poly(outer, red, SIGN)
        board.poly([(x * 0.62, tall + (y - tall) * 0.62) for x, y in outer], white, SIGN)
    elif kind == 2:
        board.disc(0, tall, (r, r), scale((26, 76, 160), light), SIGN)
        board.limb((-r * 0.5, tall), (r * 0.4, tall), r * 0.3, white, SIGN)
        board.limb((r * 0.1, tall + r * 0.35), (r * 0.55, tall), r * 0.2, white, SIGN)
    else:
        wide = rng.uniform(0.7, 1.1)
        colour = scale(pick(rng, ((30, 84, 160), (222, 186, 40), (224, 224, 220))), light)
        board.box(-wide, tall - 0.1, wide, tall + 0.75, white, SIGN)
        board.box(-wide + 0.06, tall - 0.04, wide - 0.06, tall + 0.69, colour, SIGN)
        for up in (0.12, 0.4):
            board.box(
                -wide * 0.7,
                tall + up,
                wide * rng.uniform(0.1, 0.7),
                tall + up + 0.12,
                scale(_WHITE, 0.4 + 0.5 * (colour[2] > 100)),
                SIGN,
            )


def paint_light(board: Board, rng: np.random.Generator, domain: Domain, sun: int) -> None:
    """Paints a traffic light on its post."""
    tall = rng.uniform(2.3, 3.0)
    _post(board, tall + 0.3, 0.13, vary(rng, domain.palette.pole), sun)
    board.box(-0.26, tall - 0.1, 0.26, tall + 1.0, (22, 24, 24), LIGHT)
    on = int(rng.integers(3))
    lamps: tuple[Colour, ...] = ((40, 220, 130), (250, 190, 40), (250, 50, 40))
    for i, colour in enumerate(lamps):
        board.disc(0, tall + 0.08 + 0.34 * i, (0.15, 0.14), colour if i == on else scale(colour, 0.2), LIGHT)


def paint_skyline(canvas: Canvas, domain: Domain, rng: np.random.Generator, urban: float) -> None:
    """Paints far hills of trees and, in towns, far houses along the horizon."""
    width, horizon = canvas.camera.width, canvas.camera.centre[1]
    gain = canvas.camera.focal / 260.0
    columns = np.linspace(0, width, 40)
    for layer in range(2):
        high = (9 - 4 * layer) * gain * (1 + 0.35 * np.convolve(rng.standard_normal(42), np.ones(3) / 2, "valid"))
        top = np.stack([columns, horizon - np.maximum(high, gain)], -1)
        outline = np.concatenate([top, [[width, horizon + 2], [0, horizon + 2]]])
        canvas.fill(
            outline[None],
            canvas.value(vary(rng, scale(domain.palette.leaf[0], 0.8 + 0.1 * layer), 0.05), VEGETATION, 150.0),
        )
    for _ in range(int(14 * urban)):
        left, roof = rng.uniform(0, width), horizon - rng.uniform(6, 14) * gain
        right, foot = left + rng.uniform(8, 22) * gain, horizon + 2
        block = np.array([[left, foot], [left, roof], [right, roof], [right, foot]])
        canvas.fill(
            block[None], canvas.value(scale(vary(rng, pick(rng, domain.palette.plaster)), 0.8), BUILDING, 140.0)
        )
