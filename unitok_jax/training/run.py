"""Protocols of the training loop for a product: its state, steps, data and evaluation."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from unitok_jax.training.plan import Plan


class State(Protocol):
    """Training state: a tree of all arrays that a step updates, with the number of steps done."""

    step: jax.Array  # int32 scalar; also the data position
    params: Any  # parameters for users of the model

    def items(self) -> dict[str, Any]:
        """Returns the state as checkpoint items: `params`, and the rest."""


class Batches(Protocol):
    """Iterator over this process's rows of the training batches."""

    health: Any  # `new_counts()` returns counts since the last call: samples, bad ones, bytes

    def __next__(self) -> dict[str, np.ndarray]:
        """Returns the rows of the next batch."""

    def close(self) -> None:
        """Stops reading."""


class Run(Protocol):
    """Training run of a product, from one configuration. All processes of a job build one."""

    picture: str  # name of the picture of an evaluation
    unit: str  # what a row of a batch is: images, or rows into which samples are packed
    config: ConfigDict  # the whole configuration
    mesh: Mesh  # mesh of the training devices
    samples: int  # number of training samples
    origin: str  # name of what they come from, for people
    batch_size: int  # global batch size, in rows
    samples_per_row: float  # training samples that are read for a row
    abstract: State  # shapes, dtypes and shardings of a state

    @staticmethod
    def plan(config: ConfigDict, devices: Sequence) -> Plan:
        """Plans the train step on devices that may be absent, without data or weights.

        Raises:
          ValueError: the configuration is not valid, or does not fit the devices.
        """

    @property
    def facts(self) -> dict[str, Any]:
        """Facts that a checkpoint depends on: saved, and compared on resuming.

        One that is None, or that only the initial state tells, is as the checkpoint has it.
        """

    @property
    def shared(self) -> dict[str, Any]:
        """Values that must be equal on all processes; computing them may read some samples."""

    @property
    def files(self) -> Mapping[str, str]:
        """Files that users of the weights need beside them: path in the workdir -> content."""

    def prepare(self, resumed: bool) -> None:
        """Checks the evaluation data. All processes call it, once, before the state is built.

        Args:
          resumed: True if the state will come from a checkpoint of a run that evaluated the same.

        Raises:
          ValueError, OSError: the evaluation data cannot be used.
        """

    def initial_state(self) -> State:
        """Builds the state before the first step.

        Raises:
          ValueError, OSError: the initial weights do not fit.
        """

    def state_from(self, items: dict[str, Any]) -> State:
        """Builds the state from a checkpoint's items.

        Raises:
          ValueError: the configuration cannot resume from this state.
        """

    def parameters(self, state: State) -> Mapping[str, Any]:
        """Returns the trained parts: name -> tree of arrays."""

    def batches(self, start_step: int) -> Batches:
        """Returns the training batches from `start_step` on; the caller closes them."""

    def train_step(self, step: int, state: State, batch) -> tuple[State, dict[str, jax.Array]]:
        """Runs update number `step`, from 0.

        Args:
          step: the number of updates before.
          state: donated.
          batch: global arrays, split over the mesh.

        Returns:
          The next state, and metrics: arrays to average over steps, and the int32 counters
          `skipped` and `skipped_in_a_row` of skipped steps.
        """

    def planned_memory(self, step: int, state: State, batch) -> dict[str, int]:
        """Returns the bytes on each device that the compiled `train_step` needs."""

    def evaluate(self, state: State) -> tuple[dict[str, float | np.ndarray], np.ndarray | None]:
        """Evaluates a state: metrics, and a uint8 (H, W, 3) picture or None."""
