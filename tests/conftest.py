"""What every test shares: the golden directory's option, one thread, fixed seeds."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parent / "data" / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-dir", type=Path, default=GOLDEN, help="directory of <method>/<function>_<case>.npz recorded vectors"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        'golden("method/function", partial=False): run once for each recorded case, given as the fixture `case`; '
        "every out_* array must be read unless partial",
    )
    torch.set_num_threads(1)
    # commands that tests start too: as many workers as cores run beside each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries that draw from the legacy global generator
    torch.manual_seed(0)
