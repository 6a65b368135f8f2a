"""Methods by name and arguments, as configs and the command line write them."""

from __future__ import annotations

from typing import Any

import uda.methods
from uda.methods.base import Method, TestTimeMethod
from uda.registry import short

Spec = dict[str, dict[str, Any]]
"""A method in a config: ``{name: arguments}``, one entry. In YAML a name alone stands for no arguments."""


class ConfigError(ValueError):
    """A config that cannot be run; the message names the file, the key and what would be right."""


def build_method(spec: Spec) -> Method | TestTimeMethod:
    """A method from its spec.

    Raises:
        ConfigError: an unknown name or argument (with the nearest known one), or a value that the method refuses.
    """
    name, arguments = next(iter(spec.items()))
    try:
        return uda.methods.method(name, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error


def parse_spec(value: Any) -> Spec:
    """``Name`` or ``{Name: {argument: value}}`` -> a spec.

    Raises:
        ConfigError: anything else.
    """
    if isinstance(value, str):
        return {value: {}}
    if isinstance(value, dict) and len(value) == 1:
        ((name, arguments),) = value.items()
        if arguments is None or isinstance(arguments, dict):
            return {str(name): dict(arguments or {})}
    raise ConfigError(f"a method is a name or {{Name: {{argument: value}}}}, got {short(value)}")
