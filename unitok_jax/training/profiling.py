"""Traces and memory profiles of the running train step, on request.

The files are in `profile/` of the workdir in the layout that TensorBoard and XProf read:
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

REQUEST = "profile_now"  # file in the workdir that requests a trace of the next steps


class Tracer:
    """Tracer of the steps that `config.log` lists, on process 0 alone."""

    def __init__(self, workdir: epath.Path, settings: ConfigDict, first: int, clock: Clock):
        """Sets up the tracer, without writing anything.

        Args:
          workdir: parent folder of `profile/`, which need not exist yet.
          settings: `config.log`: steps to trace, length of a trace, memory profile.
          first: first step of this process.
          clock: clock that counts the time of writing a trace; its `lead` enables tracing.
        """
        self._workdir, self._folder, self._clock = workdir, workdir / "profile", clock
        self._requested = set(settings.profile_steps) if clock.lead else set()
        self._count, self._last = settings.profile_count, None
        self._memory_at = first if settings.memory_profile and clock.lead else None

    @contextlib.contextmanager
    def step(self, step: int):
        """Marks one step in a trace; starts a trace requested from this step on."""
        if step in self._requested and self._last is None:
            with self._clock.during("profiling"):
                options = jax.profiler.ProfileOptions()
                options.python_tracer_level = 0  # Python events would displace device events
                jax.profiler.start_trace(str(self._folder), profiler_options=options)
            self._last = step + self._count - 1
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield

    def ends(self, step: int) -> bool:
        """Returns True if a trace ends with `step`; the caller must then wait for the step."""
        return step == self._last

    def done(self, step: int, planned_memory: Callable[[], dict[str, int]]) -> None:
        """Writes the trace and the memory profile that end with `step`.

        Args:
          step: step that every process has dispatched and this process has waited for.
          planned_memory: returns the bytes that the program of the step plans on each device.
        """
        if self.ends(step):
            self.close()
            log.info("traced up to step %d: %s", step, self._folder)
        if step == self._memory_at:
            with self._clock.during("profiling"):
                self._memory(step, planned_memory())

    def poll(self, step: int) -> None:
        """Requests a trace of the steps after `step` if the workdir has a file `profile_now`."""
        path = self._workdir / REQUEST
        if self._clock.lead and self._last is None and path.exists():
            path.unlink()
            self._requested.add(step + 1)

    def close(self) -> None:
        """Writes the running trace, if any."""
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
            shown = ("bytes_in_use", "peak_bytes_in_use", "bytes_limit")
            log.info("%s: %s", device, _gib({key: stats[key] for key in shown if key in stats}))


def _gib(sizes):
    return ", ".join(f"{name} {size / 2**30:.2f} GiB" for name, size in sizes.items())
