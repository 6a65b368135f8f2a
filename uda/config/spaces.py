"""Label spaces as configs write them."""

from __future__ import annotations

from typing import Any

from uda.config.specs import ConfigError
from uda.data import label_space
from uda.data.label_spaces import LabelSpace, common


def build_space(value: str | dict[str, Any]) -> LabelSpace:
    """The label space of a config: a shipped one by name, or one made of shipped ones.

    ``{common: [cityscapes19, camvid11]}``, ``{base: cityscapes19, merge: {vehicle: [car, truck]}}`` or
    ``{base: cityscapes19, select: [road, car]}``, each with an optional ``name``.

    Raises:
        ConfigError: an unknown name or key.
    """
    try:
        if isinstance(value, str):
            return label_space(value)
        unknown = set(value) - {"name", "base", "merge", "select", "common"}
        if unknown or ("common" in value) == ("base" in value):
            raise ValueError("{common: [..]} or {base: .., merge: {..}, select: [..]} is needed, with an optional name")
        if "common" in value:
            return common(*(label_space(space_name) for space_name in value["common"]), name=value.get("name"))
        space = label_space(value["base"])
        name = value.get("name", f"{space.name}-reduced")
        space = space.merge(name, value["merge"]) if "merge" in value else space
        return space.select(name, value["select"]) if "select" in value else space
    except ValueError as error:
        raise ConfigError(f"space: {error}") from error
