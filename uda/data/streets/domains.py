"""What a domain of the street scenes is: camera, layout, colours, light and sensor, each a range or a share.

The three domains stand for real data: ``cityscapes`` (flat, dark, greenish colours under an even sky, town streets),
``kitti`` (wide format, deep shadows, blown-out sky, green suburbs) and ``ika`` (warm haze, high camera, garden walls).
They were set so that images resemble the published channel statistics; they copy no image.

Every field states the range of its values in its type; :func:`uda.data.streets.vary` checks what it is given by it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from uda.data.streets.camera import Colour as RGB


def _ordered(value: Any) -> Any:
    if value[0] > value[1]:
        raise ValueError(f"the smaller number comes first, got {value[0]} to {value[1]}")
    return value


def _some(weights: Any) -> Any:
    if not sum(weights.values() if isinstance(weights, dict) else weights):
        raise ValueError("one of the weights at least is more than 0")
    return weights


def _repeat(count: int) -> BeforeValidator:
    """A number where ``count`` are wanted stands for all of them."""
    return BeforeValidator(lambda value: value if isinstance(value, tuple) else (value,) * count)


Share = Annotated[float, Field(ge=0, le=1)]
Offset = Annotated[float, Field(ge=-1, le=1)]
Level = Annotated[float, Field(ge=0, le=255)]
Slope = Annotated[float, Field(ge=0, le=4)]
Factor = Annotated[float, Field(ge=0, le=20)]
Exponent = Annotated[float, Field(ge=0.2, le=5)]
Density = Annotated[float, Field(ge=0, le=100)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Deviation = Annotated[float, Field(ge=0, le=0.5)]
Signed = Annotated[float, Field(ge=-0.5, le=0.5)]
Sigma = Annotated[float, Field(ge=0, le=0.1)]
Metres = Annotated[float, Field(ge=0.3, le=20)]
Depth = Annotated[float, Field(ge=1, le=1e6)]
Storeys = Annotated[int, Field(ge=1, le=40)]
Colour = tuple[Level, Level, Level]
Colours = Annotated[tuple[Colour, ...], Field(min_length=1)]
Frontage = Literal["terrace", "houses", "park", "field", "wall", "fence"]

_range = (_repeat(2), AfterValidator(_ordered))


@dataclass(frozen=True)
class View:
    """The camera."""

    size: tuple[Annotated[int, Field(ge=16)], Annotated[int, Field(ge=16)]]
    """Default image size: height, width."""
    fov: Annotated[float, Field(ge=10, le=150)]
    """Horizontal field of view, degrees."""
    height: Annotated[tuple[Metres, Metres], *_range]
    """Metres above the road."""
    horizon: Annotated[tuple[Share, Share], *_range]
    """Row of the horizon as a share of the image's height."""
    yaw: Annotated[float, Field(ge=0, le=30)]
    """Standard deviation, degrees."""
    bonnet: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Share of the image's height that the own car's bonnet (label 0) takes at the bottom."""


@dataclass(frozen=True)
class Layout:
    """How often what stands where."""

    lane: Annotated[tuple[Metres, Metres], *_range]
    """Width of a lane, metres."""
    lanes: Annotated[tuple[Weight, Weight], AfterValidator(_some)]
    """Chances of one and of two lanes in each direction (unnormalised)."""
    frontage: Annotated[dict[Frontage, Weight], AfterValidator(_some)]
    """Weights of what lines the road: terrace, houses, park, field, wall, fence."""
    storeys: Annotated[tuple[Storeys, Storeys], *_range]
    """Of terraced buildings, inclusive."""
    sidewalk: Annotated[tuple[Metres, Metres], *_range]
    """Width, metres."""
    verge: Share
    """Chance of a strip of grass between road and sidewalk."""
    crossing: Share
    """Chance of a side road."""
    parked: Share
    """Share of the kerb's parking places that are taken."""
    traffic: Density
    """Moving vehicles for each 100 m."""
    people: Density
    """For each 100 m."""
    riders: Density
    """Riders, and parked two-wheelers, for each 100 m."""
    trees: Density
    """Street trees for each 100 m and side."""
    poles: Density
    """Lamps, posts, signs and lights for each 100 m and side."""
    bend: Annotated[float, Field(ge=0, le=0.01)]
    """Standard deviation of the curvature, 1/m."""


@dataclass(frozen=True)
class Palette:
    """Colours of things under white light, RGB from 0 to 255."""

    road: Colours
    sidewalk: Colours
    terrain: Colours
    leaf: Colours
    bark: Colour
    plaster: Colours
    roof: Colours
    glass: Colour
    wall: Colours
    fence: Colours
    pole: Colour
    paint: Colours
    """Of vehicles."""
    cloth: Colours
    marking: Colour


@dataclass(frozen=True)
class Light:
    """Sun, sky and air."""

    shade: Annotated[tuple[Share, Share], *_range]
    """Brightness of faces turned from the sun, and of cast shadows, relative to the sunlit ones."""
    elevation: Annotated[tuple[Slope, Slope], *_range]
    """Length of a shadow relative to the height of what casts it."""
    zenith: Colour
    low: Colour
    """Sky just above the horizon."""
    clouds: Share
    """Contrast of clouds."""
    haze: Colour
    visibility: Annotated[tuple[Depth, Depth], *_range]
    """Depth in metres at which 63 % of the light is the haze's."""


@dataclass(frozen=True)
class Texture:
    """Relative brightness noise of surfaces."""

    asphalt: Share
    grass: Share
    leaves: Share
    masonry: Share
    leaf_size: Annotated[float, Field(ge=0.05, le=5)]
    """Radius of a foliage clump, metres."""
    slabs: Annotated[float, Field(ge=0, le=5)]
    """Side of a paving slab, metres; 0 for a plain sidewalk."""


@dataclass(frozen=True)
class Sensor:
    """From light to pixel values."""

    gain: Annotated[tuple[Slope, Slope, Slope], _repeat(3)]
    """Of red, green and blue (1 leaves them)."""
    exposure: Annotated[tuple[Slope, Slope], *_range]
    contrast: Slope
    """Slope about ``pivot``."""
    pivot: Share
    """In [0, 1]."""
    gamma: Exponent
    saturation: Slope
    lift: Annotated[tuple[Offset, Offset, Offset], _repeat(3)]
    """Added last, in [0, 1] (down to -1: taken away)."""
    blur: Annotated[tuple[Sigma, Sigma], *_range]
    """Standard deviation, as a share of the image's height."""
    noise: Annotated[tuple[Deviation, Deviation], *_range]
    """Standard deviation at mid grey, in [0, 1]."""
    vignette: Share
    """Darkening of the corners."""


@dataclass(frozen=True)
class Edits:
    """What is done to the sensor's values, for studies of one factor; by default nothing.

    In the order of the fields. All but ``noise`` act on values in [0, 1] that have no noise yet; the sensor's noise is
    added afterwards, the very same as without them, so that none of them changes it. The result is cut to [0, 1]:
    pixels that reach black or white move less than is said here.
    """

    resolution: Annotated[float, Field(ge=0.05, le=1)] = 1.0
    """Height and width relative to the size that is rendered: pixels are averaged, labels are those of the nearest
    pixel. The sensor has that many pixels: its noise is of each of them."""
    aspect: Annotated[float, Field(ge=0.25, le=4)] = 1.0
    """Stretches the width, of image and labels: 2 makes everything twice as wide."""
    blur: Annotated[float, Field(ge=0, le=50)] = 0.0
    """Standard deviation of a Gaussian, pixels."""
    gamma: Exponent = 1.0
    """Exponent of the tone curve ``gain * value ** gamma``: above 1 darkens the middle."""
    gain: Annotated[tuple[Factor, Factor, Factor], _repeat(3)] = (1.0, 1.0, 1.0)
    """Of red, green and blue; see ``gamma``."""
    ramp: tuple[Signed, Signed] = (0.0, 0.0)
    """Added illumination, linear in the row and in the column: its standard deviation from top to bottom and from left
    to right, in [0, 1]. Its mean is 0; positive is brighter at the bottom and at the right."""
    scale: Annotated[tuple[Slope, Slope, Slope], _repeat(3)] = (1.0, 1.0, 1.0)
    """Of the standard deviation of red, green and blue, about the mean of each image."""
    shift: Annotated[tuple[Offset, Offset, Offset], _repeat(3)] = (0.0, 0.0, 0.0)
    """Added to red, green and blue, in [0, 1] (down to -1: taken away)."""
    noise: Deviation = 0.0
    """Standard deviation of Gaussian noise, in [0, 1], equal at all brightnesses, independent in each channel."""


@dataclass(frozen=True)
class Domain:
    """A kind of street images; :func:`uda.data.streets.vary` makes one from another."""

    name: str
    code: int
    """Enters the seed."""
    view: View
    layout: Layout
    palette: Palette
    light: Light
    texture: Texture
    sensor: Sensor
    camera: Edits = field(default_factory=Edits)
    base: str = ""
    """Name of the domain in :data:`DOMAINS` that it was made from, whose files' layout it has; its own if empty."""


_CLOTH: tuple[RGB, ...] = (
    (40, 42, 60), (150, 40, 45), (60, 80, 130), (190, 185, 175), (35, 35, 35), (120, 110, 90), (60, 110, 70),
    (200, 150, 60),
)  # fmt: skip

_CITYSCAPES = Domain(
    "cityscapes",
    1,
    View((128, 256), 52.0, (1.15, 1.35), (0.40, 0.47), 1.6, bonnet=0.07),
    Layout(
        lane=(3.0, 3.8),
        lanes=(0.8, 0.2),
        frontage={"terrace": 0.66, "houses": 0.10, "park": 0.10, "wall": 0.07, "fence": 0.07},
        storeys=(3, 6),
        sidewalk=(2.6, 5.5),
        verge=0.2,
        crossing=0.4,
        parked=0.5,
        traffic=4.0,
        people=11.0,
        riders=4.5,
        trees=3.0,
        poles=5.5,
        bend=0.0006,
    ),
    Palette(
        road=((86, 88, 88), (96, 97, 96), (78, 80, 82)),
        sidewalk=((128, 122, 118), (116, 112, 110), (140, 132, 126)),
        terrain=((92, 108, 66), (104, 104, 72)),
        leaf=((62, 92, 52), (74, 98, 50), (54, 82, 54)),
        bark=(70, 62, 54),
        plaster=(
            (168, 158, 138), (150, 136, 120), (178, 170, 158), (140, 112, 96), (158, 150, 112),
            (128, 126, 124), (170, 140, 118),
        ),
        roof=((104, 66, 56), (76, 72, 74), (92, 80, 74)),
        glass=(52, 58, 64),
        wall=((140, 128, 116), (126, 104, 92)),
        fence=((92, 96, 92), (104, 88, 70)),
        pole=(104, 106, 104),
        paint=(
            (30, 32, 36), (150, 152, 156), (196, 198, 198), (56, 62, 84), (118, 36, 38), (84, 88, 92), (46, 70, 110),
        ),
        cloth=_CLOTH,
        marking=(196, 198, 194),
    ),
    Light((0.62, 0.86), (0.3, 0.9), (196, 208, 214), (222, 228, 226), 0.08, (176, 184, 180), (160.0, 320.0)),
    Texture(asphalt=0.05, grass=0.16, leaves=0.26, masonry=0.04, leaf_size=0.42, slabs=0.9),
    Sensor(
        (0.97, 1.07, 0.95), (0.85, 1.15), 1.0, 0.3, 1.35, 0.75, (0.005, 0.01, 0.01), (0.002, 0.005),
        (0.006, 0.014), 0.12,
    ),
)  # fmt: skip

_KITTI = Domain(
    "kitti",
    2,
    View((128, 424), 80.0, (1.60, 1.70), (0.44, 0.49), 1.5),
    Layout(
        lane=(2.8, 3.6),
        lanes=(0.85, 0.15),
        frontage={"terrace": 0.14, "houses": 0.26, "park": 0.36, "field": 0.10, "wall": 0.06, "fence": 0.08},
        storeys=(2, 4),
        sidewalk=(1.4, 2.8),
        verge=0.4,
        crossing=0.25,
        parked=0.32,
        traffic=3.5,
        people=2.5,
        riders=2.0,
        trees=4.0,
        poles=4.0,
        bend=0.0012,
    ),
    Palette(
        road=((122, 120, 122), (134, 130, 128), (112, 112, 118)),
        sidewalk=((142, 136, 134), (154, 142, 130), (136, 132, 136)),
        terrain=((118, 140, 52), (138, 140, 70), (96, 128, 48)),
        leaf=((66, 96, 30), (86, 108, 36), (52, 78, 30), (120, 112, 40)),
        bark=(78, 64, 50),
        plaster=((226, 222, 214), (214, 196, 160), (206, 208, 214), (190, 150, 124), (232, 226, 196)),
        roof=((142, 70, 50), (110, 62, 52), (84, 78, 80)),
        glass=(38, 46, 62),
        wall=((168, 150, 136), (150, 96, 80)),
        fence=((120, 98, 72), (84, 92, 84)),
        pole=(134, 136, 140),
        paint=((18, 18, 22), (182, 186, 194), (232, 234, 238), (32, 44, 92), (158, 26, 30), (64, 68, 76), (28, 30, 40)),
        cloth=_CLOTH,
        marking=(250, 250, 250),
    ),
    Light((0.22, 0.42), (0.5, 1.4), (150, 205, 255), (250, 255, 255), 0.10, (206, 222, 240), (260.0, 520.0)),
    Texture(asphalt=0.07, grass=0.34, leaves=0.44, masonry=0.035, leaf_size=0.34, slabs=0.0),
    Sensor(
        (0.98, 0.97, 1.02), (0.8, 1.2), 1.42, 0.45, 1.12, 0.92, (0.025, 0.025, 0.035), (0.0, 0.002), (0.008, 0.02), 0.0
    ),
)

_IKA = Domain(
    "ika",
    3,
    View((128, 208), 64.0, (1.9, 2.2), (0.34, 0.42), 2.2),
    Layout(
        lane=(3.2, 4.0),
        lanes=(0.55, 0.45),
        frontage={"terrace": 0.26, "houses": 0.28, "park": 0.16, "field": 0.06, "wall": 0.14, "fence": 0.10},
        storeys=(2, 4),
        sidewalk=(1.6, 3.2),
        verge=0.3,
        crossing=0.35,
        parked=0.35,
        traffic=5.5,
        people=6.0,
        riders=4.0,
        trees=3.0,
        poles=6.0,
        bend=0.0009,
    ),
    Palette(
        road=((124, 116, 110), (112, 106, 102), (132, 124, 114)),
        sidewalk=((176, 142, 122), (166, 150, 132), (184, 160, 140)),
        terrain=((150, 140, 84), (132, 138, 76)),
        leaf=((104, 116, 56), (118, 118, 62), (90, 106, 60)),
        bark=(108, 90, 74),
        plaster=((204, 164, 128), (216, 196, 168), (184, 124, 98), (222, 210, 190), (196, 176, 132)),
        roof=((150, 92, 70), (120, 100, 92)),
        glass=(92, 96, 104),
        wall=((190, 160, 130), (172, 122, 96)),
        fence=((150, 124, 92), (130, 128, 122)),
        pole=(140, 134, 126),
        paint=(
            (52, 50, 52),
            (200, 196, 188),
            (228, 224, 216),
            (70, 84, 120),
            (168, 64, 52),
            (120, 116, 110),
            (176, 150, 90),
        ),
        cloth=_CLOTH,
        marking=(240, 232, 214),
    ),
    Light((0.50, 0.68), (0.8, 2.0), (226, 224, 216), (244, 236, 220), 0.06, (218, 204, 182), (100.0, 180.0)),
    Texture(asphalt=0.07, grass=0.26, leaves=0.34, masonry=0.07, leaf_size=0.5, slabs=0.4),
    Sensor((1.08, 1.0, 0.86), (0.75, 1.0), 1.05, 0.4, 1.15, 0.9, (0.0, 0.0, 0.0), (0.001, 0.005), (0.010, 0.022), 0.22),
)

DOMAINS: dict[str, Domain] = {domain.name: domain for domain in (_CITYSCAPES, _KITTI, _IKA)}
"""The known domains by name."""
