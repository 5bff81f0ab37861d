"""What the training loop asks of a product: its state, its steps, its data, its evaluation."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict


class State(Protocol):
    """All that a step changes: a tree of arrays, with the number of steps that were done."""

    step: jax.Array  # int32 scalar; also the data position
    params: Any  # the parameters that users of the model get

    def items(self) -> dict[str, Any]:
        """The items of a checkpoint: `params`, and the rest."""


class Batches(Protocol):
    """This process's rows of the training batches, one after the other."""

    health: Any  # `take()` counts the samples since the last call, the bad ones, their bytes

    def __next__(self) -> dict[str, np.ndarray]:
        """The rows of the next batch."""

    def close(self) -> None:
        """Ends the reading."""


class Run(Protocol):
    """A product in training, built from one configuration. All processes of a job make one."""

    config: ConfigDict  # the whole configuration
    mesh: Mesh  # of the devices that it trains on
    samples: int  # in the training data
    batch_size: int  # global
    abstract: State  # shapes, dtypes and shardings of a state

    @property
    def facts(self) -> dict[str, Any]:
        """What a state means only together with: saved, and compared on resuming."""

    @property
    def shared(self) -> dict[str, Any]:
        """What the processes of a job must have alike; reading it may read some samples."""

    def prepare(self, resumed: bool) -> None:
        """Looks at what will be evaluated. All processes call it, once, before the state is made.

        Args:
          resumed: whether the state will come from a checkpoint of the same run.

        Raises:
          ValueError, OSError: it cannot be used.
        """

    def initial_state(self) -> State:
        """The state before the first step.

        Raises:
          ValueError, OSError: the weights that it begins with do not fit.
        """

    def state_from(self, items: dict[str, Any]) -> State:
        """The state of a checkpoint's items.

        Raises:
          ValueError: the configuration cannot go on from it.
        """

    def parameters(self, state: State) -> Mapping[str, Any]:
        """Each part of what is trained: its name -> a tree of arrays."""

    def batches(self, start_step: int) -> Batches:
        """The training batches from `start_step` on; closed by who asked."""

    def train_step(self, step: int, state: State, batch) -> tuple[State, dict[str, jax.Array]]:
        """Update number `step`, from 0.

        Args:
          step: the number of updates before.
          state: donated.
          batch: global arrays, split over the mesh.

        Returns:
          The next state, and metrics: arrays that are averaged over steps, and the int32 counters
          `skipped` and `skipped_in_a_row` of steps that were not applied.
        """

    def planned_memory(self, step: int, state: State, batch) -> dict[str, int]:
        """Bytes on each device that the compiled `train_step` of these arguments needs."""

    def evaluate(self, state: State) -> tuple[dict[str, float | np.ndarray], np.ndarray | None]:
        """Metrics of a state, and a uint8 (H, W, 3) picture if there is one to show."""
