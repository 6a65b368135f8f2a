"""The pinhole camera of the street scenes and the canvas it paints on.

World: metres, x right of the road's centre line, y up from the road, z along the road. The camera stands at
``(eye_x, eye_y, 0)``. A pitch is drawn as a shifted horizon: vertical edges stay vertical.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uda.opencv import cv2

Floats = NDArray[np.float64]
Point = tuple[float, float, float]
"""World: right, up, forward; or camera axes: right, up, depth. Metres."""
Colour = tuple[float, float, float]
"""RGB, 0 to 255."""

NEAR = 0.6
"""Nearest painted depth, metres."""
_SHIFT = 4  # sub-pixel bits of OpenCV's polygon coordinates


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """``a`` with ``share`` (0 to 1) of ``b``."""
    rest = 1.0 - share
    return (a[0] * rest + b[0] * share, a[1] * rest + b[1] * share, a[2] * rest + b[2] * share)


def scale(colour: Colour, gain: float) -> Colour:
    """A brighter or darker colour."""
    return (colour[0] * gain, colour[1] * gain, colour[2] * gain)


@dataclass(frozen=True)
class Camera:
    """Projection of world metres to canvas pixels."""

    width: int
    height: int
    focal: float
    """Pixels."""
    centre: tuple[float, float]
    """Column of the optical axis and row of the horizon."""
    eye: tuple[float, float]
    """Side offset and height above the road, metres."""
    yaw: float
    """Radians, right positive."""
    bend: float
    """Curvature: the road's centre line is at ``x = bend * z**2``."""

    def to_camera(self, points: Floats) -> Floats:
        """World ``(..., 3)`` to camera axes ``(..., 3)``: right, up, depth."""
        forward = points[..., 2]
        side = points[..., 0] + self.bend * forward * np.abs(forward) - self.eye[0]
        out = np.empty_like(points)
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        out[..., 0] = side * cos - forward * sin
        out[..., 1] = points[..., 1] - self.eye[1]
        out[..., 2] = side * sin + forward * cos
        return out

    def to_pixels(self, axes: Floats) -> Floats:
        """Camera axes ``(..., 3)`` to canvas ``(..., 2)`` column and row."""
        gain = self.focal / axes[..., 2:3]
        out: Floats = np.empty((*axes.shape[:-1], 2))
        out[..., 0:1] = self.centre[0] + axes[..., 0:1] * gain
        out[..., 1:2] = self.centre[1] - axes[..., 1:2] * gain
        return out

    def ground(self) -> tuple[int, Floats, Floats]:
        """First row below the horizon; and for all rows from it, where each pixel's ray meets the road's plane:
        side and forward, metres, ``(rows, width)``."""
        top = max(0, math.floor(self.centre[1]) + 1)
        rows = np.arange(top, self.height) + 0.5 - self.centre[1]
        depth = (self.focal * self.eye[1] / np.maximum(rows, 0.25))[:, None]
        side = (np.arange(self.width) + 0.5 - self.centre[0])[None] / self.focal * depth
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        forward = depth * cos - side * sin
        across = side * cos + depth * sin + self.eye[0] - self.bend * forward * np.abs(forward)
        return top, across, forward


def _clip(axes: Sequence[Point]) -> list[Point]:
    """The part of a polygon in camera axes that lies beyond ``NEAR`` (Sutherland-Hodgman, one plane)."""
    clipped: list[Point] = []
    for a, b in zip(axes, [*axes[1:], axes[0]], strict=True):
        if a[2] >= NEAR:
            clipped.append(a)
        if (a[2] >= NEAR) != (b[2] >= NEAR):
            t = (NEAR - a[2]) / (b[2] - a[2])
            clipped.append((a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, NEAR))
    return clipped


class Canvas:
    """Colour and label in one ``(height, width, 4)`` uint8 buffer: a fill writes both, so they cannot disagree."""

    def __init__(self, camera: Camera, haze: Colour, visibility: float) -> None:
        self.camera = camera
        self.haze = haze
        self.visibility = visibility
        self.buffer = np.zeros((camera.height, camera.width, 4), np.uint8)
        self._turn = (math.cos(camera.yaw), math.sin(camera.yaw))

    def value(self, colour: Colour, label: int, depth: float) -> tuple[int, int, int, int]:
        """What is written for a colour at a depth (metres): air light added, then the label."""
        r, g, b = mix(colour, self.haze, 1.0 - math.exp(-max(depth, 0.0) / self.visibility))
        return (min(255, int(r)), min(255, int(g)), min(255, int(b)), label)

    def axes(self, x: float, y: float, z: float) -> Point:
        """Camera axes of one world point, as :meth:`Camera.to_camera`."""
        camera, (cos, sin) = self.camera, self._turn
        side = x + camera.bend * z * abs(z) - camera.eye[0]
        return side * cos - z * sin, y - camera.eye[1], side * sin + z * cos

    def poly(self, points: Sequence[Point], colour: Colour, label: int) -> None:
        """Fills a convex polygon of world points."""
        # plain floats: for a few corners NumPy's overhead is ten times the work
        axes = [self.axes(*point) for point in points]
        if min(point[2] for point in axes) < NEAR:
            axes = _clip(axes)
            if len(axes) < 3:
                return
        camera = self.camera
        centre, unit = camera.centre, 1 << _SHIFT
        corners, depth = [], 0.0
        for side, up, ahead in axes:
            gain = camera.focal / ahead
            corners.append((int((centre[0] + side * gain) * unit), int((centre[1] - up * gain) * unit)))
            depth += ahead
        pixels = np.array(corners, np.int32)
        cv2.fillConvexPoly(self.buffer, pixels, self.value(colour, label, depth / len(axes)), cv2.LINE_8, _SHIFT)

    def polys(self, points: Floats, colour: Colour, label: int) -> None:
        """Fills many separate polygons ``(k, n, 3)`` of one colour; those that reach behind the camera are left out."""
        axes = self.camera.to_camera(points)
        axes = axes[axes[..., 2].min(axis=1) > NEAR]
        if len(axes):
            pixels = self.camera.to_pixels(axes)
            self.fill(pixels, self.value(colour, label, float(axes[..., 2].mean())))

    def fill(self, polygons: Floats, value: tuple[int, int, int, int]) -> None:
        """Fills polygons that do not overlap, given in pixels ``(k, n, 2)``, without antialiasing."""
        corners = np.clip(polygons * (1 << _SHIFT), -(2**24), 2**24).astype(np.int32)
        cv2.fillPoly(self.buffer, list(corners), value, cv2.LINE_8, _SHIFT)

    def board(self, x: float, y: float, z: float) -> Board | None:
        """An upright plane at a world point that faces the camera; None where it is out of view."""
        side, up, depth = self.axes(x, y, z)
        if depth < 2 * NEAR:
            return None
        gain = self.camera.focal / depth
        column, row = self.camera.centre[0] + side * gain, self.camera.centre[1] - up * gain
        if not -12 * gain < column < self.camera.width + 12 * gain:
            return None
        return Board(self, column, row, gain, depth)


@dataclass(frozen=True)
class Board:
    """Paints in metres (right, up) on an upright plane at one depth."""

    canvas: Canvas
    column: float
    row: float
    gain: float
    """Pixels per metre."""
    depth: float

    def poly(self, points: Sequence[tuple[float, float]], colour: Colour, label: int) -> None:
        """Fills a polygon of (right, up) metres."""
        gain, unit = self.gain, 1 << _SHIFT
        corners = [(int((self.column + x * gain) * unit), int((self.row - y * gain) * unit)) for x, y in points]
        value = self.canvas.value(colour, label, self.depth)
        cv2.fillPoly(self.canvas.buffer, [np.array(corners, np.int32)], value, cv2.LINE_8, _SHIFT)

    def box(self, left: float, bottom: float, right: float, top: float, colour: Colour, label: int) -> None:
        """Fills an upright rectangle."""
        self.poly([(left, bottom), (left, top), (right, top), (right, bottom)], colour, label)

    def limb(
        self, start: tuple[float, float], end: tuple[float, float], width: float, colour: Colour, label: int
    ) -> None:
        """Fills a straight bar of a width in metres."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        gain = 0.5 * width / max(math.hypot(dx, dy), 1e-6)
        nx, ny = -dy * gain, dx * gain
        corners = [(start[0] + nx, start[1] + ny), (end[0] + nx, end[1] + ny)]
        self.poly([*corners, (end[0] - nx, end[1] - ny), (start[0] - nx, start[1] - ny)], colour, label)

    def disc(
        self, right: float, up: float, radii: tuple[float, float], colour: Colour, label: int, *, ring: float = 0.0
    ) -> None:
        """Fills an ellipse, or draws its outline of ``ring`` metres."""
        value = self.canvas.value(colour, label, self.depth)
        self.ellipse(right, up, radii, value, max(1, round(ring * self.gain)) if ring else -1)

    def ellipse(
        self, right: float, up: float, radii: tuple[float, float], value: tuple[int, int, int, int], thick: int = -1
    ) -> None:
        """An ellipse whose colour the canvas has given already (:meth:`Canvas.value`)."""
        gain, unit = self.gain, 1 << _SHIFT
        centre = (int((self.column + right * gain) * unit), int((self.row - up * gain) * unit))
        axes = (max(unit // 2, int(radii[0] * gain * unit)), max(unit // 2, int(radii[1] * gain * unit)))
        cv2.ellipse(self.canvas.buffer, centre, axes, 0, 0, 360, value, thick, cv2.LINE_8, _SHIFT)
