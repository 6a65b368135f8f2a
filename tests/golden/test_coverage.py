"""No recorded function without a test that consumes it."""

from __future__ import annotations

import re
from pathlib import Path


def test_every_recorded_function_has_a_test(golden_dir: Path) -> None:
    recorded = {f"{path.parent.name}/{path.stem.rpartition('_')[0]}" for path in golden_dir.glob("*/*.npz")}
    assert recorded, f"no recorded vectors in {golden_dir}"
    sources = [path.read_text() for path in Path(__file__).parent.glob("test_*.py")]
    tested = {name for text in sources for name in re.findall(r'mark\.golden\(\s*"([^"]+)"', text)}
    assert not recorded - tested, f"recorded but never tested: {sorted(recorded - tested)}"
