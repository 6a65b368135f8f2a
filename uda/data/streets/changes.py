"""Domains made from a known one by changes to single entries, and what a domain differs in."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from uda.data.streets.domains import (
    DOMAINS,
    Colours,
    Domain,
    Edits,
    Frontage,
    Layout,
    Light,
    Palette,
    Sensor,
    Texture,
    View,
)
from uda.registry import nearest, short

PARTS: dict[str, type[Any]] = {
    "view": View,
    "layout": Layout,
    "palette": Palette,
    "light": Light,
    "texture": Texture,
    "sensor": Sensor,
    "camera": Edits,
}
"""First half of an entry's key, and the record whose fields are the second halves."""


@functools.cache
def entries() -> dict[str, Any]:
    """Key of every entry that can be changed -> its type with ranges, in the order of the records."""
    return {
        f"{part}.{name}": hint
        for part, record in PARTS.items()
        for name, hint in typing.get_type_hints(record, include_extras=True).items()
    }


def vary(base: str | Domain, changes: Mapping[str, Any], name: str | None = None) -> Domain:
    """A domain that differs from another in some entries, and in nothing else.

    The scenes are those of ``base``: the same seed and index draw the same street. With changes of ``palette``,
    ``light``, ``sensor`` and ``camera`` alone every thing stands where it stood and the labels are the same (but for
    their size, where ``camera.resolution`` or ``camera.aspect`` change it); with changes of ``sensor`` and ``camera``
    the light that falls on the sensor is the same too. ``view``, ``layout`` and ``texture`` make other images.

    Args:
        base: name of a known domain, or a domain.
        changes: key -> value, such as ``{"sensor.contrast": 0.7, "camera.shift": [0.1, 0, 0]}``. Keys are the fields
            of :class:`Domain`'s records (:func:`entries` lists them), values what the fields take; a number stands for
            equal limits of a range and for three equal channels. A list of colours in ``palette`` has as many as the
            base's, or one that stands for all: with another number other things would be drawn.
        name: of the domain; the base's if None.

    Returns:
        The domain, with the file layout of the known domain that it goes back to.

    Raises:
        ValueError: an unknown domain or key (the nearest is named), or a value of another type or out of its range.

    Example:
        >>> dim = vary("cityscapes", {"sensor.contrast": 0.7, "sensor.lift": 0.05}, name="dim")
        >>> dim.sensor.lift, dim.palette == DOMAINS["cityscapes"].palette
        ((0.05, 0.05, 0.05), True)
    """
    domain = resolve(base)
    fields: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        if key not in entries():
            close = nearest(str(key), entries(), listed=0)
            raise ValueError(f"unknown entry {short(key)} of a street domain; {close} (parts: {', '.join(PARTS)})")
        part, field = key.split(".")
        fields.setdefault(part, {})[field] = _checked(key, value, getattr(getattr(domain, part), field))
    parts = {part: dataclasses.replace(getattr(domain, part), **values) for part, values in fields.items()}
    return dataclasses.replace(domain, name=name or domain.name, base=layout_of(domain), **parts)


def resolve(domain: str | Domain) -> Domain:
    """A domain by name.

    Raises:
        ValueError: an unknown name; the nearest is named.
    """
    if isinstance(domain, Domain):
        return domain
    if domain not in DOMAINS:
        raise ValueError(f"domain is {short(domain)}; {nearest(str(domain), sorted(DOMAINS))}")
    return DOMAINS[domain]


def layout_of(domain: Domain) -> str:
    """Name of the known domain whose files' layout a domain has.

    Raises:
        ValueError: it is made from none.
    """
    base = domain.base or domain.name
    if base not in DOMAINS:
        raise ValueError(f"the street domain {short(domain.name)} has no known base; {nearest(base, sorted(DOMAINS))}")
    return base


def differences(domain: Domain) -> dict[str, Any]:
    """What a domain, however it was made, differs in from the known one that it goes back to: key -> value, as JSON."""
    base = DOMAINS[layout_of(domain)]
    every = {"code": (domain.code, base.code)}
    for key in entries():
        part, field = key.split(".")
        every[key] = (getattr(getattr(domain, part), field), getattr(getattr(base, part), field))
    return {key: _plain(value) for key, (value, known) in every.items() if _plain(value) != _plain(known)}


def _checked(key: str, value: Any, known: Any) -> Any:
    """The value of an entry as its record holds it; ``known`` is the base's."""
    value = _tuples(value)
    try:
        value = TypeAdapter(entries()[key]).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        at = "".join(f"[{place}]" for place in first["loc"] if isinstance(place, int))
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{key}{at} is {short(first['input'])}: {message[0].lower()}{message[1:]}") from None
    if entries()[key] is Colours and len(value) != len(known):
        if len(value) != 1:
            raise ValueError(f"{key} has {len(value)} colours; allowed: {len(known)}, as the base has, or 1 for all")
        value *= len(known)
    if isinstance(value, dict):  # what is drawn depends on the order
        value = {kind: value[kind] for kind in typing.get_args(Frontage) if kind in value}
    return value


def _tuples(value: Any) -> Any:
    """Lists and arrays as tuples, at any depth."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _plain(value: Any) -> Any:
    """Tuples as lists, at any depth."""
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value
