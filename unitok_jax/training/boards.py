"""Boards that show curves and pictures of a run: TensorBoard files, Weights & Biases."""

import contextlib
import importlib.util
import logging
import sys

import numpy as np
from etils import epath

from unitok_jax.runtime import workdir
from unitok_jax.system.extras import how_to_install
from unitok_jax.system.paths import is_remote

log = logging.getLogger(__name__)

RUN_ID = "wandb_id"  # file in the workdir with the id of this run in the project


class TensorBoard:
    """Event files in `tensorboard/` of a workdir."""

    def __init__(self, folder: epath.Path, start_step: int):
        """Opens the files; hides records after `start_step` that an earlier process wrote."""
        with _without("torch"):  # which it imports if installed: seconds, for a name it never needs
            from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=start_step + 1)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Adds a point to each of some curves."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Adds a uint8 (H, W, 3) picture."""
        self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Flushes and closes the files."""
        self._writer.close()


@contextlib.contextmanager
def _without(package: str):
    """Hides a package that no one has imported yet from the imports inside."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None
    try:
        yield
    finally:
        del sys.modules[package]


class WeightsAndBiases:
    """Run of a project at Weights & Biases; the same workdir continues the same run."""

    def __init__(self, folder: epath.Path, project: str, config: dict):
        """Starts or continues the run, whose id is kept in the workdir.

        Args:
          folder: the workdir.
          project: name of the project.
          config: the whole configuration, to show.

        Raises:
          ValueError: the package is not installed, or cannot begin a run: no login, no network.
        """
        check_wandb(project)
        import wandb

        path = folder / RUN_ID
        known = path.read_text().strip() if path.exists() else None
        try:
            self._run = wandb.init(
                project=project,
                id=known,
                resume="allow" if known else None,
                name=folder.name,
                config=config,
                dir=None if is_remote(folder) else str(folder),
            )
        except wandb.Error as error:
            raise ValueError(
                f"log.wandb={project}: {error}. `wandb login` once, or WANDB_MODE=offline, or "
                "log.wandb='' to do without"
            ) from error
        workdir.write(path, self._run.id + "\n")
        self._image = wandb.Image

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Adds a point to each of some curves."""
        self._log(step, values)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Adds a uint8 (H, W, 3) picture."""
        self._log(step, {name: self._image(image)})

    def close(self) -> None:
        """Sends pending records and finishes the run."""
        self._run.finish()

    def _log(self, step, values):
        # A resumed run repeats steps that the killed process has sent; each can be sent only once.
        if step >= self._run.step:
            self._run.log(values, step=step)


def check_wandb(project: str) -> None:
    """Checks that a project can be written to, before anything is built.

    Raises:
      ValueError: a project is given, and the package wandb is not installed.
    """
    # A stand-in module of a test has no spec.
    installed = "wandb" in sys.modules or importlib.util.find_spec("wandb")
    if project and not installed:
        raise ValueError(
            f"log.wandb={project} needs a package: {how_to_install('wandb')}; or leave it empty"
        )
