"""The contracts that prove a method, and a network and data small enough to run them in milliseconds; needs pytest.

For plug-ins as for the library's own tests: inherit :class:`MethodContract` or :class:`TestTimeContract`.
"""

from uda.testing.methods import (
    Killed,
    MethodContract,
    Recorder,
    TestTimeContract,
    assert_same,
    killed_at,
    one_step,
    settings,
    train,
)
from uda.testing.tiny import TinyDataset, TinySegmenter, TinyUnlabelled, tiny_target

__all__ = [
    "Killed",
    "MethodContract",
    "Recorder",
    "TestTimeContract",
    "TinyDataset",
    "TinySegmenter",
    "TinyUnlabelled",
    "assert_same",
    "killed_at",
    "one_step",
    "settings",
    "tiny_target",
    "train",
]
