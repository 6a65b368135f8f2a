"""Label spaces as configs write them."""

from __future__ import annotations

from typing import Any

from uda.config.options import OptionError, check_classes, check_type
from uda.config.specs import ConfigError
from uda.data import label_space
from uda.data.folder import inline_space
from uda.data.label_spaces import LabelSpace, common
from uda.registry import short

_KEYS = {
    "name": str, "base": str, "common": list[str], "merge": dict[str, list[str]], "select": list[str], "classes": Any,
}  # fmt: skip


def build_space(value: str | dict[str, Any]) -> LabelSpace:
    """The label space of a config: a shipped one by name, or one made of shipped ones.

    ``{common: [cityscapes19, camvid11]}``, ``{base: cityscapes19, merge: {vehicle: [car, truck]}}``,
    ``{base: cityscapes19, select: [road, car]}`` or ``{classes: [road, {name: car, colour: [0, 0, 142]}]}`` (as
    :class:`uda.data.Folder` takes them), each with an optional ``name``.

    Raises:
        ConfigError: an unknown name or key.
    """
    try:
        if isinstance(value, str):
            return label_space(value)
        _check(value)
        if "classes" in value:
            check_classes(value["classes"])
            return inline_space(value["classes"], name=value.get("name", "folder"))
        if "common" in value:
            return common(*(label_space(space_name) for space_name in value["common"]), name=value.get("name"))
        space = label_space(value["base"])
        name = value.get("name", f"{space.name}-reduced")
        space = space.merge(name, value["merge"]) if "merge" in value else space
        return space.select(name, value["select"]) if "select" in value else space
    except ValueError as error:
        raise ConfigError(f"space: {error}") from error


def _check(value: dict[str, Any]) -> None:
    if set(value) - set(_KEYS) or sum(key in value for key in ("common", "base", "classes")) != 1:
        raise ValueError(
            "{common: [..]}, {base: .., merge: {..}, select: [..]} or {classes: [..]} is needed, with an optional "
            f"name; got {short(value)}"
        )
    for key, annotation in _KEYS.items():
        if key in value:
            check_type(key, annotation, value[key])
            if key == "merge" and (numbers := [new for new in value[key] if not isinstance(new, str)]):
                raise OptionError(key, f"names of classes are texts, got {short(numbers[0])}")
            if not value[key]:
                raise OptionError(key, "must not be empty")
