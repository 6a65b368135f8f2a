"""``uda methods``."""

from __future__ import annotations

import inspect
import sys

import typer

from uda.cli.common import guarded


@guarded
def methods(
    verbose: bool = typer.Option(False, "--verbose", "-v", help="With the arguments and what they mean."),
) -> None:
    """List the methods with their papers, arguments and defaults, as configs name them."""
    from uda.methods import METHODS, TEST_TIME_METHODS, parameters

    for title, found in (("Training", METHODS), ("Test time", TEST_TIME_METHODS)):
        print(f"{title}:")
        for name, cls in found.items():
            arguments = ", ".join(
                key if one.default is one.empty else f"{key}={one.default!r}" for key, one in parameters(name).items()
            )
            print(f"  {name}({arguments})")
            module = sys.modules[cls.__module__]
            paper = " ".join(inspect.cleandoc(module.__doc__ or "").split("\n\n")[0].split())
            text = inspect.cleandoc(cls.__doc__ or "")
            print(f"    {paper}")
            for line in text.splitlines() if verbose else text.splitlines()[:1]:
                print(f"    {line}".rstrip())
