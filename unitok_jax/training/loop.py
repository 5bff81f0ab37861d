"""Training loop: build, restore, step, log, save, evaluate."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import logging
import pathlib
import time
import zlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from unitok_jax.checkpoints import differences
from unitok_jax.checkpoints.manager import Checkpoints
from unitok_jax.data.sources import check_outside_data
from unitok_jax.runtime import processes, sharding
from unitok_jax.runtime.workdir import lock, make, write
from unitok_jax.training import goodput, overview
from unitok_jax.training.boards import TensorBoard, WeightsAndBiases, check_wandb
from unitok_jax.training.clock import FILE, Clock, read
from unitok_jax.training.metrics import NoWriter, Progress, RunningMean, Writer
from unitok_jax.training.out_of_memory import explained
from unitok_jax.training.profiling import Tracer
from unitok_jax.training.run import Batches, Run, State

log = logging.getLogger(__name__)

_LAG_SECONDS = 90


class Preempted(Exception):
    """Received SIGTERM or Ctrl-C. All progress is saved; the same command continues the run.

    Attributes:
      interrupted: True after Ctrl-C, on any process of the job.
    """

    def __init__(self, preemption: processes.Preemption, where: str):
        """Builds the message; all processes must call it. `where`, such as 'after step 5'."""
        self.interrupted = preemption.interrupted()
        name = "Ctrl-C" if self.interrupted else "SIGTERM"
        super().__init__(f"{name}: stopped {where}; the same command continues there")


@dataclasses.dataclass(frozen=True)
class _Tools:
    """Tools of the loop beside the run."""

    folder: epath.Path  # the workdir
    facts: dict[str, Any]  # that a checkpoint depends on
    lead: bool  # True on process 0, which writes
    checkpoints: Checkpoints
    preemption: processes.Preemption
    writer: Writer | NoWriter
    progress: Progress
    clock: Clock
    tracer: Tracer


def train(
    make_run: Callable[[ConfigDict], Run],
    config: ConfigDict,
    workdir: str,
    began: float | None = None,
) -> dict[str, float | np.ndarray]:
    """Trains until `config.steps`, from the newest checkpoint of `workdir` if there is one.

    Args:
      make_run: builds the run from the configuration.
      config: the whole configuration.
      workdir: the folder of all files that the run writes.
      began: start time of the process, in seconds since 1970; by default now.

    Returns:
      The metrics of the last evaluation.

    Raises:
      ValueError: the configuration or the checkpoint does not fit.
      OSError: the workdir cannot be written, or its disk is full.
      workdir.BusyError: another run writes to it.
      Preempted: received SIGTERM or Ctrl-C.
    """
    began = time.time() if began is None else began
    processes.agree(_command(config, workdir))
    with contextlib.ExitStack() as stack:
        preemption = stack.enter_context(contextlib.closing(processes.Preemption()))
        with processes.fail_together():
            check_wandb(config.log.wandb)
            check_outside_data(workdir, "--workdir", config)
            folder = make(workdir)
            stack.enter_context(lock(folder))
            run = make_run(config)
            shared = run.shared  # reads some samples
        lead = processes.is_lead()
        clock = stack.enter_context(Clock(folder, began, lead))
        checkpoints = stack.enter_context(Checkpoints(folder, config.checkpoint, create=True))
        processes.agree(shared | {"checkpoints in --workdir": _settled(checkpoints)})
        resumed, unseen = checkpoints.latest_step() is not None, False
        alike = resumed and lead and _evaluated_alike(checkpoints.meta()["config"], config)
        run.prepare(processes.from_lead(alike))
        if not resumed:
            state = run.initial_state()
        else:
            state = run.state_from(checkpoints.restore(run.abstract.items(), config, run.facts))
        start, facts = int(jax.device_get(state.step)), run.facts
        if resumed:
            facts = differences.completed(facts, checkpoints.meta(start)["data"])
            log.info("resumed %s at step %d", folder, start)
            # The evaluation of this step was skipped after SIGTERM.
            due = start % config.eval.every == 0
            evaluated = checkpoints.meta(start).get("evaluated", True)
            unseen = processes.from_lead(due and not evaluated)
        if start >= config.steps:
            log.info("step %d of %d is done: nothing to train", start, config.steps)
            return _evaluation(run.evaluate(state)[0])
        checkpoints.check_space(state.items())
        for line in overview.run_lines(run, folder):
            log.info("%s", line)
        log.info("parameters:\n%s", _parameters(run, state))
        earlier = read(folder) if lead and (folder / FILE).exists() else []
        clock.open(start, config.steps, run.batch_size, run.unit, _facts())
        tracer = Tracer(folder, config.log, start + 1, clock)
        stack.callback(tracer.close)
        writer = NoWriter()
        if lead:
            write(folder / "config.json", config.to_json(indent=2) + "\n")
            for name, content in run.files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                write(folder / name, content)
            writer = Writer(folder, start, _boards(config, folder, start), reevaluate=unseen)
        stack.callback(writer.close)
        batches = stack.enter_context(contextlib.closing(run.batches(start)))
        progress = Progress(start, config.steps, run.batch_size, run.unit)
        stack.callback(progress.close)
        tools = _Tools(
            folder, facts, lead, checkpoints, preemption, writer, progress, clock, tracer
        )
        if unseen:
            checkpoints.add_evaluation(start, _evaluate(run, state, start, tools))
        if preemption.requested():
            raise Preempted(preemption, f"at step {start}")
        log.info("%s", overview.waiting_line(earlier, _facts()))
        metrics = _loop(run, state, start, batches, tools)
        clock.switch("saving")  # leaving waits for the last save
    if lead:
        log.info("%s", goodput.measure(folder).line())
    log.info("finished: %s", folder)
    return metrics


def _loop(run: Run, state: State, start: int, batches: Batches, tools: _Tools):
    config, clock, writer = run.config, tools.clock, tools.writer
    window, pending, evaluation = _Window(config.optim.max_skipped), None, {}
    for step in range(start + 1, config.steps + 1):
        with tools.tracer.step(step):
            with clock.during("input"):
                batch = next(batches)
            batch = sharding.shard_batch(batch, run.mesh)
            with explained(run):
                state, metrics = run.train_step(step - 1, state, batch)
        # Metrics of the previous step: fetching those of this step would make the device wait.
        if pending is not None:
            with explained(run):
                window.update(step - 1, jax.device_get(pending))
            clock.tick(step - 1)
        pending = metrics
        last, stops = step == config.steps, tools.preemption.requested()
        evaluates = last or (step % config.eval.every == 0 and not stops)
        saves = last or stops or step % config.checkpoint.every == 0
        # A save ends a window of means too, so that a resumed run writes the same records.
        records = evaluates or saves or step % config.log.every == 0
        if records or step == start + 1 or tools.tracer.ends(step):
            with explained(run):
                window.update(step, jax.device_get(pending))
            clock.tick(step)
            pending = None
            planned = functools.partial(run.planned_memory, step - 1, state, batch)
            tools.tracer.done(step, planned)
        if records:
            values, times = window.result(), clock.record()
            counts = processes.total(batches.health.new_counts())
            values |= {f"data/{name}": np.int64(count) for name, count in counts.items()}
            rate = times.get(clock.rate)
            # Packed samples are counted with the first row of their group, which may lie before.
            if times and counts["samples"]:
                per_row = run.samples_per_row * counts["bytes"] / counts["samples"]
                times["data/bytes_per_second"] = per_row * rate
            writer.scalars(step, values)
            writer.curves(step, times)
            tools.progress.update(step, _headline(values), rate)
            tools.tracer.poll(step)
        if evaluates:
            evaluation = _evaluate(run, state, step, tools)
        if saves and window.in_a_row and not (last or stops):
            log.warning(
                "step %d is not saved: it was skipped, and the one after may tell why", step
            )
        elif saves:
            with clock.during("saving"):
                tools.checkpoints.save(
                    step, state.items(), config, evaluation if evaluates else {}, tools.facts
                )
        if stops and not last:
            clock.switch("saving")
            tools.checkpoints.wait()  # raises an error of the save before success is logged
            raise Preempted(tools.preemption, f"after step {step}")
    return evaluation


def _evaluate(run: Run, state: State, step: int, tools: _Tools):
    with tools.clock.during("evaluation"):
        metrics, picture = run.evaluate(state)
    evaluation = _evaluation(metrics)
    tools.writer.scalars(step, evaluation)
    if picture is not None:
        tools.writer.image(step, run.picture, picture)
    log.info("step %d  %s", step, _line(evaluation))
    tools.clock.record()
    if tools.lead:
        so_far = goodput.measure(tools.folder)
        tools.writer.curves(step, {"time/goodput": so_far.share})
        log.info("step %d  %s", step, so_far.line())
    return evaluation


class _Window:
    """Means of the metrics of applied steps, and the number of skipped steps."""

    def __init__(self, max_skipped: int):
        self._means, self._max_skipped, self._skipped = RunningMean(), max_skipped, 0
        self.in_a_row = 0  # steps skipped since the last applied one

    def update(self, step: int, metrics: dict[str, np.ndarray]) -> None:
        """Adds the metrics of one step.

        Raises:
          FloatingPointError: too many steps in a row were skipped.
        """
        self._skipped = int(metrics.pop("skipped"))
        self.in_a_row = int(metrics.pop("skipped_in_a_row"))
        if not self.in_a_row:
            self._means.update(metrics)
            return
        bad = ", ".join(key for key, value in metrics.items() if not np.all(np.isfinite(value)))
        log.warning("step %d was skipped, not finite: %s", step, bad)
        if self.in_a_row >= self._max_skipped:
            raise FloatingPointError(
                f"{self.in_a_row} steps in a row up to step {step} were skipped, not finite: {bad};"
                " the weights are those before them and nothing bad was saved. Start again from "
                "the newest checkpoint with a lower optim.learning_rate, or look at the data "
                f"(optim.max_skipped={self._max_skipped})"
            )

    def result(self) -> dict[str, np.ndarray]:
        """Returns the means since the last result, and `skipped`, the total of skipped steps."""
        return self._means.result() | {"skipped": np.int64(self._skipped)}


def _evaluated_alike(saved, config) -> bool:
    """Returns True if the keys of the evaluation are those of a checkpoint's configuration."""
    saved, present = (
        json.dumps(keys["eval"], sort_keys=True) for keys in (saved, config.to_dict())
    )
    return saved == present


def _evaluation(metrics):
    return {f"eval/{key}": value for key, value in metrics.items()}


def _parameters(run, state):
    if run.config.log.parameters:
        return overview.array_table(state.params)
    return overview.part_table(run.parameters(state))


def _facts():
    return {
        "processes": jax.process_count(),
        "devices": jax.device_count(),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }


def _headline(values):
    names = [name for name in values if name == "loss" or name.startswith("loss/")]
    return {name: values[name] for name in names}


def _line(values):
    return "  ".join(
        f"{name} {np.array2string(np.asarray(value), precision=3)}"
        for name, value in values.items()
    )


def _boards(config, folder, start):
    boards = [TensorBoard(folder, start)] if config.log.tensorboard else []
    if config.log.wandb:
        boards.append(WeightsAndBiases(folder, config.log.wandb, config.to_dict()))
    return boards


def _settled(checkpoints: Checkpoints) -> list[int]:
    """Lists the checkpoints, after waiting until this host lists the same ones as process 0.

    On a shared file system a host may see new or deleted files with a delay.
    """
    wanted, deadline = processes.from_lead(checkpoints.steps()), time.monotonic() + _LAG_SECONDS
    while checkpoints.steps() != wanted and time.monotonic() < deadline:
        time.sleep(1)
    return checkpoints.steps()


def _command(config: ConfigDict, workdir: str) -> dict[str, object]:
    """Returns the values that must be equal on all processes of a job."""
    code = 0
    for file in sorted(pathlib.Path(__file__).parents[1].rglob("*.py")):
        code = zlib.crc32(file.read_bytes(), code)
    keys = {f"--config.{key}": value for key, value in differences.flat(config.to_dict()).items()}
    versions = {name: importlib.metadata.version(name) for name in ("jax", "flax", "numpy")}
    return keys | versions | {"--workdir": workdir, "digest of the code": f"{code:08x}"}
