"""``uda methods``."""

from __future__ import annotations

import inspect
import sys
from dataclasses import is_dataclass

import typer

from uda.cli.common import guarded


def argument(parameter: inspect.Parameter) -> str:
    """An argument with its default, as configs write it."""
    if parameter.default is parameter.empty:
        return parameter.name
    default = vars(parameter.default) if is_dataclass(parameter.default) else parameter.default
    return f"{parameter.name}={default!r}"


@guarded
def methods(
    verbose: bool = typer.Option(False, "--verbose", "-v", help="With the arguments and what they mean."),
) -> None:
    """List the methods with their papers, arguments and defaults, as configs name them."""
    from uda.methods import METHODS, TEST_TIME_METHODS, parameters

    for title, registry in (("Training", METHODS), ("Test time", TEST_TIME_METHODS)):
        print(f"{title}:")
        for name in registry:
            try:
                cls = registry[name]
            except (ImportError, ValueError) as error:  # an installed extension that is broken hides no other method
                print(f"  {name}: cannot be loaded: {error}")
                continue
            arguments = ", ".join(map(argument, parameters(cls).values()))
            origin = f" from {registry.extensions[name].value}" if name in registry.extensions else ""
            print(f"  {name}({arguments}){origin}")
            module = sys.modules[cls.__module__]
            paper = " ".join(inspect.cleandoc(module.__doc__ or "").split("\n\n")[0].split())
            text = inspect.cleandoc(cls.__doc__ or "")
            print(f"    {paper}")
            for line in text.splitlines() if verbose else text.splitlines()[:1]:
                print(f"    {line}".rstrip())
