"""One self-contained page of a matrix or a study: a template of its own inside the frame that they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jinja2
import yaml

from uda.config import FactorialConfig, MatrixConfig


def page(
    template: str,
    config: MatrixConfig | FactorialConfig,
    result: Any,
    opening: Sequence[str],
    command: str = "",
    **content: Any,
) -> str:
    """The page; nothing runs in it.

    Args:
        template: a file in ``uda/bench`` that extends ``plain_page.html.j2``.
        config: stands at the end, every default written out.
        result: has a name, notes, the machine and versions.
        opening: sentences below the name.
        command: what repeats it.
        content: what else the template shows.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("uda.bench", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(template).render(
        result=result,
        opening=opening,
        command=command or f"uda bench {result.name}.yaml",
        config=yaml.safe_dump(config.resolved(), sort_keys=False),
        **content,
    )
