"""One-factor domains: street scenes that differ from their base in a single measurable property."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from uda.data.streets.camera import Floats
from uda.data.streets.changes import differences, layout_of, resolve, vary
from uda.data.streets.domains import Domain, Edits
from uda.data.streets.render import edit, ramp, render
from uda.registry import nearest, short

_SCENES = range(4_000_000, 4_000_016)
"""Indices of the scenes that a base is measured on: none of them is ever written."""


def one_factor(name: str, strength: float = 1.0, base: str | Domain = "cityscapes") -> dict[str, Any]:
    """The changes that make a one-factor domain, for :func:`uda.data.streets.vary`.

    Each moves one property of the images and keeps the others: the scenes, the labels, and what of the channels' means
    and deviations (over the data set), sharpness (Laplacian relative to the deviation), noise and size is not named:

    ================= =============================================================== ==============================
    factor            what it does at ``strength`` s                                  besides
    ================= =============================================================== ==============================
    ``mean``          channel means move by ``s * (0.12, 0, -0.06)``
    ``deviation``     channel deviations times ``0.6 ** s``, about each image's mean
    ``histogram``     one tone curve, exponent ``2 ** s``, for the whole data set;    fine contrast moves from dark to
                      gain and offset keep its means and deviations                   bright places
    ``low_frequency`` the light's fall from top to bottom turns by ``s * 90``
                      degrees into one from left to right; the deviation stays
    ``sharpness``     Gaussian blur of ``1.2 * s`` pixels; gain and offset keep the
                      data set's means and deviations
    ``noise``         white noise of deviation ``0.04 * s``                           adds its variance to that of
                                                                                      the channels
    ``resolution``    height and width times ``0.5 ** s``                             sharpness for each pixel rises
    ``aspect``        width times ``1.5 ** s``                                        sharpness along rows falls
    ================= =============================================================== ==============================

    All are without effect at 0. ``histogram``, ``low_frequency`` and ``sharpness`` depend on the base: 16 scenes of it,
    at its default size, are rendered and measured (some seconds). Pixels are cut to [0, 1]; where many reach the
    limits, at large strengths or in a base like ``kitti`` with blown-out sky, means and deviations move too.

    Args:
        name: of the factor.
        strength: from 0; 1 is clearly visible.
        base: name of a known domain, or a domain without ``camera`` changes of its own, which these would replace.

    Returns:
        Key -> value, rounded to four digits. For the base ``cityscapes`` at strength 1 it is ``ONE_FACTOR[name]``.

    Raises:
        ValueError: an unknown factor or base, a base with ``camera`` changes, or a strength below 0 or so large that a
            value is out of its range.

    Example:
        >>> one_factor("mean", 0.5)
        {'camera.shift': [0.06, 0.0, -0.03]}
    """
    if name not in _MAKERS:
        raise ValueError(f"factor is {short(name)}; {nearest(str(name), _MAKERS)}")
    if not 0 <= strength < math.inf:
        raise ValueError(f"strength is {short(strength)}; allowed: numbers from 0")
    domain = resolve(base)
    for key, value in differences(domain).items():
        if key.startswith("camera."):
            raise ValueError(f"{short(domain.name)} has {key}={value}; allowed: bases without camera changes")
    changes = {key: np.round(value, 4).tolist() for key, value in _MAKERS[name](float(strength), domain).items()}
    try:
        vary(domain, changes)
    except ValueError as error:
        raise ValueError(f"strength is {strength:g}, too much for {name}: {error}") from None
    return changes


def _histogram(strength: float, base: Domain) -> dict[str, Any]:
    edits = Edits(gamma=2.0**strength)
    return {"camera.gamma": edits.gamma, **_keep(base, edits)}


def _low_frequency(strength: float, base: Domain) -> dict[str, Any]:
    """Turns the images' mean component along the vertical ramp: ``2 a c + a^2 + b^2 = 0`` keeps the deviation."""
    falls = [(image * ramp(image.shape[0])[:, None, None]).mean() for image in _scenes(base)]
    fall, angle = float(np.mean(falls)), strength * math.pi / 2
    return {"camera.ramp": [fall * (math.cos(angle) - 1), -abs(fall) * math.sin(angle)]}


def _sharpness(strength: float, base: Domain) -> dict[str, Any]:
    edits = Edits(blur=1.2 * strength)
    return {"camera.blur": edits.blur, **_keep(base, edits)}


def _keep(base: Domain, edits: Edits) -> dict[str, Any]:
    """The gain and the offset that give the edited scenes the means and deviations of the base's, limits included."""
    before, edited = _channels(_scenes(base)), _channels([edit(image, edits) for image in _scenes(base)])
    mean, deviation = before.mean(1), before.std(1)
    gain = deviation / edited.std(1)
    offset = mean - gain * edited.mean(1)
    for _ in range(12):  # what is cut to [0, 1] moves both
        cut = np.clip(gain[:, None] * edited + offset[:, None], 0, 1)
        ratio = deviation / cut.std(1)
        gain, offset = gain * ratio, mean + ratio * (offset - cut.mean(1))
    return {"camera.gain": gain, "camera.shift": offset}


def _channels(images: list[Floats]) -> Floats:
    """Pixels of all images by channel, ``(3, N)``."""
    return np.concatenate([image.reshape(-1, 3).T for image in images], axis=1)


def _scenes(base: Domain) -> list[Floats]:
    return _measured(layout_of(base), json.dumps(differences(base)))


@functools.lru_cache(maxsize=4)
def _measured(base: str, changes: str) -> list[Floats]:
    """Scenes of a domain without noise, ``(H, W, 3)`` in [0, 1]."""
    quiet = vary(base, {**json.loads(changes), "sensor.noise": 0.0, "camera.noise": 0.0})
    return [render(quiet, 0, index=index)[0] / 255 for index in _SCENES]


_MAKERS: dict[str, Callable[[float, Domain], dict[str, Any]]] = {
    "mean": lambda strength, base: {"camera.shift": [0.12 * strength, 0.0, -0.06 * strength]},
    "deviation": lambda strength, base: {"camera.scale": [0.6**strength] * 3},
    "histogram": _histogram,
    "low_frequency": _low_frequency,
    "sharpness": _sharpness,
    "noise": lambda strength, base: {"camera.noise": 0.04 * strength},
    "resolution": lambda strength, base: {"camera.resolution": 0.5**strength},
    "aspect": lambda strength, base: {"camera.aspect": 1.5**strength},
}

ONE_FACTOR: dict[str, dict[str, Any]] = {
    "mean": {"camera.shift": [0.12, 0.0, -0.06]},
    "deviation": {"camera.scale": [0.6, 0.6, 0.6]},
    "histogram": {
        "camera.gamma": 2.0,
        "camera.gain": [1.2329, 1.1294, 1.1816],
        "camera.shift": [0.149, 0.1671, 0.1535],
    },
    "low_frequency": {"camera.ramp": [0.0794, -0.0794]},
    "sharpness": {
        "camera.blur": 1.2,
        "camera.gain": [1.0682, 1.0638, 1.0585],
        "camera.shift": [-0.0193, -0.0201, -0.0161],
    },
    "noise": {"camera.noise": 0.04},
    "resolution": {"camera.resolution": 0.5},
    "aspect": {"camera.aspect": 1.5},
}
"""Factor -> changes of ``cityscapes``, what :func:`one_factor` gives at strength 1."""
