"""Where curves and pictures of a run are shown: TensorBoard's files, Weights & Biases."""

import importlib.util
import logging
import sys

import numpy as np
from etils import epath

from unitok_jax.runtime import workdir
from unitok_jax.system.extras import how_to_install

log = logging.getLogger(__name__)

RUN_ID = "wandb_id"  # a file in the workdir: which of the project's runs is this one


class TensorBoard:
    """Event files in `tensorboard/` of a workdir."""

    def __init__(self, folder: epath.Path, start_step: int):
        """Records after `start_step` that an earlier process wrote are hidden."""
        # It imports PyTorch where that is installed: seconds, for commands that draw pictures.
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


class WeightsAndBiases:
    """A run of a project at Weights & Biases; the same workdir continues the same one."""

    def __init__(self, folder: epath.Path, project: str, config: dict):
        """Begins or continues the run, whose id is kept in the workdir.

        Args:
          folder: the workdir.
          project: its name.
          config: the whole configuration, to be shown.

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
                dir=str(folder) if workdir.is_local(folder) else None,
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
        """Sends what is left, and ends the run."""
        self._run.finish()

    def _log(self, step, values):
        # Steps that a killed process has sent come again alike, and cannot be sent again.
        if step >= self._run.step:
            self._run.log(values, step=step)


def check_wandb(project: str) -> None:
    """Refuses a project that cannot be written to, before anything is built.

    Raises:
      ValueError: there is a project's name, and no package wandb.
    """
    # A module that a test put there has no spec.
    found = "wandb" in sys.modules or importlib.util.find_spec("wandb")
    if project and not found:
        raise ValueError(
            f"log.wandb={project} needs a package: {how_to_install('wandb')}; or leave it empty"
        )
