"""Traces and memory profiles of the running train step, on request.

They lie under `profile/` of the workdir in the layout that TensorBoard and XProf read:
`plugins/profile/<time>/` with an `.xplane.pb` and, for Perfetto, a `.trace.json.gz`.
"""

import contextlib
import logging
from collections.abc import Callable

import jax
from etils import epath
from ml_collections import ConfigDict

from unitok_jax.training.clock import Clock

log = logging.getLogger(__name__)

REQUEST = "profile_now"  # a file in the workdir that asks for a trace of the next steps


class Tracer:
    """Traces the steps that `config.log` names, of the lead process alone."""

    def __init__(self, workdir: epath.Path, config: ConfigDict, first: int, clock: Clock):
        """Writes nothing yet.

        Args:
          workdir: in which `profile/` is or will be.
          config: `config.log`: which steps, how many at a time, whether the memory too.
          first: the first step of this process.
          clock: takes the time that writing a trace costs; its `lead` decides who traces.
        """
        self._workdir, self._folder, self._clock = workdir, workdir / "profile", clock
        self._requested = set(config.profile_steps) if clock.lead else set()
        self._count, self._last = config.profile_count, None
        self._memory_at = first if config.memory_profile and clock.lead else None

    @contextlib.contextmanager
    def step(self, step: int):
        """Marks one step in a trace; starts the trace if it was asked for."""
        if step in self._requested and self._last is None:
            with self._clock.during("profiling"):
                options = jax.profiler.ProfileOptions()
                options.python_tracer_level = 0  # its events crowd out those of the device
                jax.profiler.start_trace(str(self._folder), profiler_options=options)
            self._last = step + self._count - 1
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield

    def ends(self, step: int) -> bool:
        """Whether a trace ends with `step`, which must then be waited for."""
        return step == self._last

    def done(self, step: int, planned_memory: Callable[[], dict[str, int]]) -> None:
        """After the end of `step` on the device: writes what ends with it.

        Args:
          step: that every process has dispatched and this one has waited for.
          planned_memory: tells the bytes that the program of the step plans on each device.
        """
        if self.ends(step):
            self.close()
            log.info("traced up to step %d: %s", step, self._folder)
        if step == self._memory_at:
            with self._clock.during("profiling"):
                self._memory(step, planned_memory())

    def poll(self, step: int) -> None:
        """Asks for a trace of the steps after `step` if a file `profile_now` is in the workdir."""
        path = self._workdir / REQUEST
        if self._clock.lead and self._last is None and path.exists():
            path.unlink()
            self._requested.add(step + 1)

    def close(self) -> None:
        """Writes the trace that is running, if any."""
        if self._last is not None:
            self._last = None
            with self._clock.during("profiling"):
                jax.profiler.stop_trace()

    def _memory(self, step, planned):
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"memory_{step:08d}.prof"
        jax.profiler.save_device_memory_profile(str(path))
        log.info("memory after step %d: %s; the step plans %s", step, path, _gib(planned))
        for device in jax.local_devices():
            stats = device.memory_stats()
            if stats is None:
                log.info("%s tells nothing of its memory", device)
                continue
            told = ("bytes_in_use", "peak_bytes_in_use", "bytes_limit")
            log.info("%s: %s", device, _gib({key: stats[key] for key in told if key in stats}))


def _gib(sizes):
    return ", ".join(f"{name} {size / 2**30:.2f} GiB" for name, size in sizes.items())
