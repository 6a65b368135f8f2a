"""A page for each method, from its docstrings, its constructor, the recorded results and the presets."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator

from sitegen import figures, results
from sitegen.markup import arguments, formulas, in_cell, library, markdown, place
from sitegen.yaml_keys import in_yaml, shown

import uda.functional
from uda.methods import METHODS, TEST_TIME_METHODS, find_method, parameters
from uda.presets import PRESETS, preset


def names() -> list[str]:
    """The methods of this library, training first; installed extensions have their own pages elsewhere."""
    return [*METHODS.table, *TEST_TIME_METHODS.table]


def uri(name: str) -> str:
    """The page of a method: that of the file which README links to."""
    return f"methods/{find_method(name).__module__.rsplit('.', 1)[-1]}.md"


def head(name: str) -> str:
    """The first sentence or so of a method's file: what it is, and the paper."""
    module = inspect.getmodule(find_method(name))
    text = inspect.cleandoc(getattr(module, "__doc__", "") or "").split("\n\n")[0]
    return " ".join(markdown(text, module.__name__ if module else "").split())


def functions(name: str) -> Iterator[tuple[str, str, str]]:
    """(name, place, docstring) of the free functions of ``uda.functional`` that a method's file imports."""
    source = inspect.getsource(inspect.getmodule(find_method(name)))  # type: ignore[arg-type]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("uda.functional"):
            for alias in node.names:
                if alias.name in uda.functional.__all__:
                    member = library()["functional"][alias.name]
                    docstring = (member.final_target if member.is_alias else member).docstring
                    yield alias.name, place(member), docstring.value if docstring else ""


def equations(name: str) -> list[str]:
    """The formulas of the free functions that a method computes with; those of its file stand in its text."""
    lines = []
    for function, path, text in functions(name):
        for formula in formulas(text):
            lines += [f"[`{function}`][{path}]", "", f"$$ {formula} $$", ""]
    return ["## Formulas", "", *lines] if lines else []


def constructor(name: str) -> list[str]:
    """Its arguments with defaults and meaning."""
    cls = find_method(name)
    meanings = arguments(f"{cls.__module__}.{cls.__qualname__}")
    hints = inspect.get_annotations(cls.__init__)
    lines = ["## Arguments", "", "| argument | type | default | meaning |", "|---|---|---|---|"]
    for key, parameter in parameters(name).items():
        default = "required" if parameter.default is parameter.empty else shown(parameter.default)
        written = in_yaml(_hint(cls, hints.get(key)))
        lines.append(f"| `{key}` | {in_cell(written)} | {in_cell(default)} | {in_cell(meanings.get(key, ''))} |")
    return [*lines, ""] if len(lines) > 4 else ["## Arguments", "", "None.", ""]


def _hint(cls: type, annotation: object) -> object:
    """An annotation with the names that its module knows; ``object`` where it needs one of a type checker's."""
    try:
        scope = vars(inspect.getmodule(cls))
        return eval(annotation, scope) if isinstance(annotation, str) else annotation
    except NameError:
        return object


def in_config(name: str) -> list[str]:
    """How a config asks for it."""
    required = [key for key, value in parameters(name).items() if value.default is value.empty]
    written = f"{{{name}: {{{', '.join(f'{key}: ...' for key in required)}}}}}" if required else name
    if name in TEST_TIME_METHODS.table:
        return ["```yaml", f"test_time: {written}", "```", ""]
    listed = written if name == "Supervised" else f"Supervised, {written}"
    return ["```yaml", f"method: [{listed}]", "```", ""]


def recorded(name: str) -> list[str]:
    """What was measured."""
    rows = list(results.rows_of(name))
    if not rows:
        return ["## Recorded", "", "Nothing yet.", ""]
    return [
        "## Recorded", "", results.HEAD, *(results.line(*row) for row in rows), "",
        *results.commands([config for config, _ in rows]), "",
        "Short runs on two CPU cores; see [Recorded results](../benchmarks.md) for how to read them.", "",
    ]  # fmt: skip


def presets(name: str) -> list[str]:
    """The published recipes with it."""
    using = [label for label in PRESETS if name in preset(label)["methods"]]
    links = ", ".join(f"[{label}](../presets.md#{label.lower()})" for label in using)
    return ["## Presets", "", links or "None has it.", ""]


def pages() -> dict[str, str | bytes]:
    """Uri -> Markdown, or the PNG of a figure."""
    written: dict[str, str | bytes] = {}
    for name in names():
        cls = find_method(name)
        text = markdown(inspect.cleandoc(inspect.getmodule(cls).__doc__ or ""), cls.__module__)
        lines = [f"# {name}", "", text, "", *in_config(name)]
        if name in METHODS.table and figures.makes_images(name):
            png, shows = figures.figure(name)
            written[f"methods/{name}.png"] = png
            caption = f"From left to right: {', '.join(shows)}; with the default arguments."
            lines += [f"![{name} on procedural streets]({name}.png)", "", caption, ""]
        lines += [*equations(name), *constructor(name), *recorded(name), *presets(name)]
        lines += [f"Class: [`{cls.__module__}.{name}`][{cls.__module__}.{name}]", ""]
        written[uri(name)] = "\n".join(lines)
    index = ["# Methods", ""]
    for title, registry in (("Training", METHODS), ("Test time", TEST_TIME_METHODS)):
        index += [f"## {title}", "", "| method | what |", "|---|---|"]
        index += [f"| [`{name}`]({uri(name).split('/')[1]}) | {in_cell(head(name))} |" for name in registry.table]
        index.append("")
    written["methods/index.md"] = "\n".join(index)
    return written
