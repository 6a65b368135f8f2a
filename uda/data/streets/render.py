"""Renders one street scene: layout, painting at twice the size, then the domain's sensor."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from uda.data.streets.buildings import BUILDING, WALL
from uda.data.streets.camera import Camera, Canvas, Floats
from uda.data.streets.changes import resolve
from uda.data.streets.domains import Domain, Edits, Sensor
from uda.data.streets.ground import Singles, noise, paint_ground, paint_sky
from uda.data.streets.layout import make_scene
from uda.data.streets.roadside import VEGETATION, paint_skyline
from uda.data.streets.scene import Scene
from uda.opencv import cv2

Image = NDArray[np.uint8]
_SCALE = 2  # supersampling
_SMALLEST = 16


def check_size(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width as given. Raises ``ValueError`` unless both are integers of at least 16."""
    if len(size) != 2 or any(int(n) != n or n < _SMALLEST for n in size):
        raise ValueError(f"size is {size!r}; allowed: (height, width) of integers from {_SMALLEST}")
    return int(size[0]), int(size[1])


def render(
    domain: str | Domain, seed: int, size: tuple[int, int] | None = None, *, index: int = 0
) -> tuple[Image, Image]:
    """One scene.

    Args:
        domain: a name in ``DOMAINS``, or a domain of one's own.
        seed: any integer from 0.
        size: height and width in pixels; the domain's default if None. The horizontal field of view stays. It is the
            size that is rendered; ``camera.resolution`` and ``camera.aspect`` of the domain change it afterwards.
        index: which scene of the seed; the stream of random numbers is ``SeedSequence([seed, index, domain.code])``.

    Returns:
        ``(H, W, 3)`` uint8 RGB and ``(H, W)`` uint8 raw Cityscapes ids (0 unlabelled). The same arguments give the same
        bytes. Each label is that of one of the four colour samples of its pixel.

    Raises:
        ValueError: for an unknown domain, a negative seed or index, or a size below 16, also
            after the domain's own changes of it.
    """
    domain = resolve(domain)
    height, width = check_size(domain.view.size if size is None else size)
    final = final_size(domain, (height, width))
    for name, value in (("seed", seed), ("index", index)):
        if value < 0:
            raise ValueError(f"{name} is {value}; allowed: integers from 0")
    rng = np.random.default_rng(np.random.SeedSequence([seed, index, domain.code]))
    scene = make_scene(domain, rng)
    canvas = _canvas(scene, height * _SCALE, width * _SCALE)
    paint_sky(canvas, domain, rng, scene.sun)
    urban = sum(domain.layout.frontage.get(kind, 0.0) for kind in ("terrace", "houses"))
    paint_skyline(canvas, domain, rng, urban)
    paint_ground(canvas, domain, scene.street, rng, scene.sun, scene.shade, _shadow_masks(canvas, scene))
    for _, paint in sorted(scene.items, key=lambda layer: -layer[0]):
        paint(canvas)
    _paint_bonnet(canvas, domain)
    _grain(canvas, domain, rng)
    colour = cv2.resize(canvas.buffer[..., :3], (width, height), interpolation=cv2.INTER_AREA)
    label = np.ascontiguousarray(canvas.buffer[1::_SCALE, 1::_SCALE, 3])
    if final != (height, width):
        colour, label = resample(np.asarray(colour, np.float32), final), _nearest(label, final)
    return expose(np.asarray(colour, np.float32), domain.sensor, rng, domain.camera), label


def final_size(domain: Domain, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a domain's files that are rendered at a size.

    Raises:
        ValueError: a side is below 16 pixels.
    """
    share, aspect = domain.camera.resolution, domain.camera.aspect
    height, width = round(size[0] * share), round(size[1] * share * aspect)
    if min(height, width) < _SMALLEST:
        raise ValueError(
            f"size {size[0]}x{size[1]} with camera.resolution {share:g} and camera.aspect {aspect:g} is "
            f"{height}x{width}; allowed: sides from {_SMALLEST}"
        )
    return height, width


def resample(image: Singles, size: tuple[int, int]) -> Singles:
    """Float image ``(H, W, 3)`` at another height and width: averages where it shrinks, linear where it grows."""
    for height, width in ((size[0], image.shape[1]), size):  # OpenCV averages only what shrinks on both axes
        shrinks = height <= image.shape[0] and width <= image.shape[1]
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, (width, height), interpolation=how), np.float32)
    return image


def _nearest(label: Image, size: tuple[int, int]) -> Image:
    return np.asarray(cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def _canvas(scene: Scene, height: int, width: int) -> Canvas:
    domain, rng = scene.domain, scene.rng
    view, light = domain.view, domain.light
    focal = width / 2 / math.tan(math.radians(view.fov) / 2)
    lane = scene.street.lane * (int(rng.integers(scene.street.lanes)) + 0.5)
    camera = Camera(
        width, height, focal, (width / 2, height * rng.uniform(*view.horizon)),
        (lane + rng.normal(0, 0.25), rng.uniform(*view.height)), math.radians(rng.normal(0, view.yaw)),
        rng.normal(0, domain.layout.bend),
    )  # fmt: skip
    return Canvas(camera, light.haze, rng.uniform(*light.visibility))


def _shadow_masks(canvas: Canvas, scene: Scene) -> tuple[Image, Image]:
    """Where things on the ground cast a shadow, and where they touch it: masks from 0 to 255."""
    masks = []
    for polygons, soft in ((scene.cast, 0.002), (scene.contact, 0.004)):
        layer = Canvas(canvas.camera, (0, 0, 0), 1e9)
        for polygon in polygons:
            layer.poly(polygon, (255, 255, 255), 255)
        sigma = max(0.5, soft * canvas.camera.width)
        masks.append(np.asarray(cv2.GaussianBlur(np.ascontiguousarray(layer.buffer[..., 3]), (0, 0), sigma), np.uint8))
    return masks[0], masks[1]


def _paint_bonnet(canvas: Canvas, domain: Domain) -> None:
    """The own car's bonnet, without a label."""
    if not domain.view.bonnet:
        return
    height, width = canvas.buffer.shape[:2]
    across = np.linspace(-1, 1, 24)
    for share, colour in ((1.0, (62, 66, 68, 0)), (0.72, (92, 98, 100, 0)), (0.45, (50, 54, 56, 0))):
        rows = height * (1 - domain.view.bonnet * share * (1 - 0.55 * across**2))
        outline = np.stack([(across + 1) / 2 * width, rows], -1)
        canvas.fill(np.concatenate([outline, [[width + 2.0, height + 2.0], [-2.0, height + 2.0]]])[None], colour)


def _grain(canvas: Canvas, domain: Domain, rng: np.random.Generator) -> None:
    """Texture of leaves and masonry, in place; labels stay."""
    label = canvas.buffer[..., 3]
    shape = (label.shape[0], label.shape[1])
    amount = np.zeros(256, np.float32)
    amount[VEGETATION] = domain.texture.leaves
    amount[[BUILDING, WALL]] = domain.texture.masonry
    fine = rng.standard_normal(shape, np.float32) + noise(rng, shape, shape[0] / 90)
    gain = 1 + cv2.LUT(label, amount) * np.clip(fine * 0.5, -1.2, 1.6)
    np.clip(canvas.buffer[..., :3] * gain[..., None], 0, 255, out=canvas.buffer[..., :3], casting="unsafe")


def expose(colour: Singles, sensor: Sensor, rng: np.random.Generator, edits: Edits | None = None) -> Image:
    """What a sensor makes of light ``(H, W, 3)`` from 0 to 255: lens, exposure, contrast curve, edits, noise; uint8."""
    height, width = colour.shape[:2]
    image: Floats = np.asarray(colour / np.float32(255))
    if (sigma := rng.uniform(*sensor.blur) * height) > 0.15:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma))
    image = image**sensor.gamma * np.array(sensor.gain, np.float32) * rng.uniform(*sensor.exposure)
    if sensor.vignette:
        y, x = np.linspace(-1, 1, height)[:, None, None], np.linspace(-1, 1, width)[None, :, None]
        image = image * (1 - sensor.vignette * (x**2 + y**2) / 2)
    grey = image.mean(axis=2, keepdims=True)
    image = grey + (image - grey) * sensor.saturation
    image = sensor.pivot + (image - sensor.pivot) * sensor.contrast + np.array(sensor.lift)
    strength = rng.uniform(*sensor.noise) * (0.4 + np.sqrt(np.clip(image, 0, 1)))
    noisy = image + rng.standard_normal((height, width, 3), np.float32) * strength
    if edits not in (None, Edits()):
        clean = np.clip(image, 0, 1)
        # the noise that is visible without edits: where the sensor is at its limit there is less
        noisy = edit(clean, edits) + (np.clip(noisy, 0, 1) - clean)
        noisy += edits.noise * rng.standard_normal((height, width, 3), np.float32)
    return np.clip(noisy * 255 + 0.5, 0, 255).astype(np.uint8)


def edit(image: Floats, edits: Edits) -> Floats:
    """A float image ``(H, W, 3)`` in [0, 1] without noise, after the edits that keep its size; not cut to [0, 1]."""
    if edits.blur:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), edits.blur))
    image = np.array(edits.gain) * image**edits.gamma
    (down, right), (height, width) = edits.ramp, image.shape[:2]
    image = image + down * ramp(height)[:, None, None] + right * ramp(width)[None, :, None]
    mean = image.mean((0, 1))
    return np.asarray(mean + (image - mean) * np.array(edits.scale) + np.array(edits.shift))


def ramp(length: int) -> Floats:
    """A straight line of mean 0 and standard deviation 1."""
    line = np.arange(length) - (length - 1) / 2
    return np.asarray(line / line.std())
