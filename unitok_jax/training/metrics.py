"""Metrics of a run: running means, metrics.jsonl and its pictures, progress."""

import json
import logging
import sys
from collections.abc import Sequence

import numpy as np
from etils import epath
from PIL import Image
from tqdm import tqdm

from unitok_jax.runtime.workdir import Lines

log = logging.getLogger(__name__)


class RunningMean:
    """Running means of scalars and vectors over the steps since the last result."""

    def __init__(self):
        self._sums, self._counts = {}, {}

    def update(self, values: dict[str, np.ndarray]) -> None:
        """Adds one step's values; each key is averaged over the steps that have the key."""
        for key, value in values.items():
            self._sums[key] = self._sums.get(key, 0.0) + np.asarray(value, np.float64)
            self._counts[key] = self._counts.get(key, 0) + 1

    def result(self) -> dict[str, np.ndarray]:
        """Returns the means and resets them."""
        means = {key: value / self._counts[key] for key, value in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means


class Writer:
    """Writer of metrics.jsonl and PNGs in a workdir; boards show the same curves and pictures."""

    def __init__(
        self, folder: epath.Path, start_step: int, boards: Sequence = (), reevaluate: bool = False
    ):
        """Opens the file; drops records after `start_step`, which the resumed run writes again.

        The evaluation of `start_step` itself is dropped too, if `reevaluate`.

        Args:
          folder: the workdir.
          start_step: number of steps done before.
          boards: boards of the module `boards`; closed with this writer.
          reevaluate: True if the weights of `start_step` will be evaluated now.
        """

        def keep(line):
            again = reevaluate and _step(line) == start_step and '"eval/' in line
            return _step(line) <= start_step and not again

        self._folder, self._boards = folder, tuple(boards)
        self._file = Lines(folder / "metrics.jsonl", keep)

    def scalars(self, step: int, values: dict[str, float | np.ndarray]) -> None:
        """Writes a record. Vectors, one value per codebook, become lists and separate curves."""
        record = {key: np.asarray(value).tolist() for key, value in values.items()}
        self._file.append(json.dumps({"step": step} | record))
        self.curves(step, values)

    def curves(self, step: int, values: dict[str, float | np.ndarray]) -> None:
        """Adds values to the boards alone: those that a resumed run does not reproduce exactly."""
        curves = {}
        for key, value in values.items():
            curves |= dict(_curves(key, np.asarray(value)))
        for board in self._boards if curves else ():
            board.scalars(step, curves)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes a uint8 (H, W, 3) picture to images/<name>_<step>.png and to the boards."""
        folder = self._folder / "images"
        folder.mkdir(exist_ok=True)
        with (folder / f"{name}_{step:08d}.png").open("wb") as file:
            Image.fromarray(image).save(file, "PNG")
        for board in self._boards:
            board.image(step, name, image)

    def close(self) -> None:
        """Flushes and closes the files."""
        self._file.close()
        for board in self._boards:
            board.close()


class NoWriter:
    """Writer that does nothing, for processes other than 0."""

    def scalars(self, step: int, values: dict[str, float | np.ndarray]) -> None:
        """Writes nothing."""

    def curves(self, step: int, values: dict[str, float | np.ndarray]) -> None:
        """Writes nothing."""

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes nothing."""

    def close(self) -> None:
        """Does nothing."""


class Progress:
    """Progress display: a bar on a terminal, plain lines in a log."""

    def __init__(self, start_step: int, steps: int, batch_size: int, unit: str):
        self._steps, self._batch_size, self._unit = steps, batch_size, unit
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(initial=start_step, total=steps, unit="step", dynamic_ncols=True)

    def update(self, step: int, values: dict[str, float], rate: float | None) -> None:
        """Shows `step` of all steps, the values and, in a log, the remaining time.

        Args:
          step: number of steps done.
          values: values to show.
          rate: rows per second since the previous update; None if no step was timed.
        """
        text = "  ".join(f"{key} {float(value):.4g}" for key, value in values.items())
        if rate:
            text += f"  {rate:.1f} {self._unit}/s"
        if self._bar is not None:
            self._bar.set_postfix_str(text)
            self._bar.update(step - self._bar.n)
        else:
            remaining = (self._steps - step) * self._batch_size / rate if rate else float("inf")
            log.info("step %d/%d  %s  %s left", step, self._steps, text, _duration(remaining))

    def close(self) -> None:
        """Ends the bar's line."""
        if self._bar is not None:
            self._bar.close()


def _curves(key, array):
    if array.ndim == 0:
        yield key, float(array)
        return
    yield f"{key}/mean", float(array.mean())
    for index, value in enumerate(array):
        yield f"{key}/{index}", float(value)


def _step(line: str) -> int:
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:  # a line cut short by a kill
        return sys.maxsize


def _duration(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
