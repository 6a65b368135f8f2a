"""Makes the report: the notebook from its script, executed, and a page that opens without a network.

python experiments/build_report.py

``experiments/report.ipynb`` is replaced only when every cell has run; the page is ``runs/report/report.html``. With
``--page`` nothing runs: the page is made from the notebook that is there.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from latex2mathml.converter import convert
from nbclient import NotebookClient
from nbconvert import HTMLExporter

from uda.files import atomic_write

HERE = Path(__file__).resolve().parent
SCRIPT, NOTEBOOK = HERE / "report.py", HERE / "report.ipynb"
MINUTES = 30
"""A cell that takes longer has hung."""
_MATH = re.compile(r"\$\$(.+?)\$\$|(?<![\\$])\$([^$\n][^$]*?)\$", re.DOTALL)
_CODE = re.compile(r'(<div class="input_area">.*?</pre></div>\s*</div>)', re.DOTALL)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
body {{ max-width: 62rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.55 system-ui, sans-serif; color: #1b1b1b; }}
img {{ max-width: 100%; height: auto; }}
pre {{ background: #f4f4f4; padding: .6rem .8rem; overflow-x: auto; font-size: 13px; line-height: 1.4; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; font-size: 14px; margin: 1rem 0; }}
th, td {{ padding: .15rem .6rem; border-bottom: 1px solid #ddd; }}
td[style*=right] {{ white-space: nowrap; }}
math[display=block] {{ margin: 1rem 0; }}
details > summary {{ color: #666; font-size: 13px; cursor: pointer; }}
.prompt, .anchor-link {{ display: none; }}
</style></head><body>
{body}
</body></html>
"""


def from_script(script: Path = SCRIPT) -> Any:
    """The notebook that the script says, without outputs."""
    notebook = jupytext.read(script)
    notebook.metadata.pop("jupytext", None)
    for at, cell in enumerate(notebook.cells):
        cell.id = f"cell-{at:02d}"  # the same at every build
    return notebook


def execute(notebook: Any, folder: Path = HERE) -> Any:
    """Run every cell in a kernel of its own, in a folder; times are not kept.

    Raises:
        CellExecutionError: a cell failed; the message has its traceback.
    """
    NotebookClient(
        notebook, timeout=60 * MINUTES, record_timing=False, resources={"metadata": {"path": folder}}
    ).execute()
    return notebook


def page(notebook: Any) -> str:
    """The notebook as one page, pictures in it: formulas as MathML, code folded, nothing loaded from elsewhere."""
    notebook = nbformat.from_dict(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _with_math(cell.source)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/markdown" in data:
                data["text/markdown"] = _with_math(data["text/markdown"])
    exporter = HTMLExporter(template_name="basic")
    body, _ = exporter.from_notebook_node(notebook)
    body = _CODE.sub(r"<details><summary>code</summary>\1</details>", body)
    title = next(line[2:] for line in notebook.cells[0].source.splitlines() if line.startswith("# "))
    return _PAGE.format(title=title, body=body)


def _with_math(text: str) -> str:
    def formula(match: re.Match[str]) -> str:
        shown, inline = match.groups()
        return convert(shown.strip(), display="block") if shown else convert(inline)

    return _MATH.sub(formula, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="make the page alone, from the notebook that is there")
    parser.add_argument("--out", type=Path, default=HERE.parent / "runs" / "report" / "report.html")
    arguments = parser.parse_args()
    if arguments.page:
        notebook = nbformat.read(NOTEBOOK, as_version=4)
    else:
        notebook = execute(from_script())
        with atomic_write(NOTEBOOK) as file:
            file.write(nbformat.writes(notebook) + "\n")
    with atomic_write(arguments.out) as file:
        file.write(page(notebook))
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
