"""Sizes of the training images over a run: a curriculum from small to large ones."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from unitok_jax.data.images.transforms import check_size

_KEY = "data.size_schedule"


class Stage(NamedTuple):
    """Part of a run whose training images have one size."""

    start: int  # its first step, from 0
    size: tuple[int, int]  # height, width in pixels


def stages(steps: int, data: ConfigDict) -> tuple[Stage, ...]:
    """Returns the stages of a run of `steps`, first to last; the last one's size is `image_size`.

    Args:
      steps: of the run.
      data: `config.data`; `image_size` and `size_schedule` are read.

    Raises:
      ValueError: a size is no multiple of 16 or not larger than the one before, the last one is
        not `image_size`, or the fractions do not ascend from 0 or leave a size no step.
    """
    final, schedule = check_size(data.image_size), data.size_schedule
    if not schedule:
        return (Stage(0, final),)
    shown = f"{_KEY}={tuple(schedule)}"
    if not all(isinstance(pair, Sequence) and len(pair) == 2 for pair in schedule):
        raise ValueError(f"{shown}: give (first fraction, size) pairs, as ((0, 128), (0.85, 256))")
    fractions = [fraction for fraction, _ in schedule]
    if not all(isinstance(each, int | float) and math.isfinite(each) for each in fractions):
        raise ValueError(f"{shown}: {fractions} are not all fractions of the run")
    if fractions[0] != 0:
        raise ValueError(f"{shown} begins at {fractions[0]} of the run; the first size begins at 0")
    found = [Stage(round(steps * each), check_size(size, key=_KEY)) for each, size in schedule]
    for one, other in itertools.pairwise(fractions):
        if one >= other:
            raise ValueError(f"{shown}: {other} comes after {one}; fractions of the run ascend")
    for one, other in itertools.pairwise(found):
        if math.prod(one.size) >= math.prod(other.size):
            raise ValueError(
                f"{shown}: {_show(other.size)} comes after {_show(one.size)}; sizes grow"
            )
    if found[-1].size != final:
        raise ValueError(
            f"{shown} ends with {_show(found[-1].size)}, but data.image_size={tuple(final)}, the "
            "size of evaluations and of the trained model; set both to the same"
        )
    for one, start in zip(found, [*(stage.start for stage in found[1:]), steps], strict=True):
        if one.start >= start:
            raise ValueError(f"{shown} leaves {_show(one.size)} none of steps={steps}")
    return tuple(found)


def line(found: Sequence[Stage]) -> str:
    """Formats stages for people."""
    return ", ".join(f"{_show(stage.size)} px from step {stage.start:,}" for stage in found)


def _show(size: tuple[int, int]) -> str:
    return "{}x{}".format(*size)
