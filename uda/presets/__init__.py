"""Papers as data: which methods with which arguments, settings, model and evaluation make up a published recipe.

A preset has ``paper``, ``start`` (the weights that it begins with), ``steps`` (optimiser steps), ``methods``
(``{name: arguments}`` in order), ``settings`` (fields of ``uda.engine.Settings``), ``model`` (of
``uda.models.build_model``) and ``evaluate`` (fields of ``uda.config.EvaluateSpec``). ``preset(name, changes)`` changes
single entries; leave a method out to see what it is worth. ``python -m uda.presets DAFormer`` prints one with every
argument written out.

The values are the authors' for GTA5 to Cityscapes, each with file and line in ``papers/<paper>.yaml``; what cannot be
had here stands there too. ``docs/presets.md`` shows both.
"""

from uda.presets.recipe import PARTS, PRESETS, Preset, describe, main, preset, preset_trainer, resolved
from uda.presets.sources import ORIGINS, Origin, Origins, leaves

__all__ = [
    "ORIGINS",
    "PARTS",
    "PRESETS",
    "Origin",
    "Origins",
    "Preset",
    "describe",
    "leaves",
    "main",
    "preset",
    "preset_trainer",
    "resolved",
]
