"""API pages: one of each module with public names, with all of them."""

from __future__ import annotations

from sitegen.markup import offered, packages


def pages() -> dict[str, str]:
    """Uri -> Markdown that mkdocstrings fills in."""
    written = {}
    names: dict[str, str] = {}  # a place is documented once, where it is offered first
    for module in sorted(packages(), key=lambda module: -module.path.count(".")):
        lines = [f"# {module.path}", "", f"::: {module.path}", "    options:", "      members: false"]
        lines += ["      show_root_heading: false", "      show_root_toc_entry: false", ""]
        for name, target in offered(module).items():
            if target in names:
                lines += [f"`{name}`: see [`{target}`][{target}].", ""]
                continue
            names[target] = name
            lines += [f"::: {target}", ""]
        written[f"api/{module.path}.md"] = "\n".join(lines)
    return dict(sorted(written.items()))
