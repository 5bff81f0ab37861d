"""Process that measures figures: a JSON line when one begins and one when it is known."""

import contextlib
import gc
import json
import os
import threading
import time
import traceback

import jax

from benchmarks import timing
from benchmarks.gpu.figures import Settings, figures


def work(settings: Settings, names: list[str], known: dict | None) -> None:
    """Measures figures by name, one after the other; one that fails does not stop the rest.

    Args:
      settings: of the run.
      names: figures to measure.
      known: row of the figure 'peaks', if it is measured.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # What a library prints goes to stderr: stdout is for the lines.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(**row):
        out.write(json.dumps(row) + "\n")

    def peaks():
        nonlocal known
        if known is None or "error" in known:
            known = timing.peaks(0.2)
        return known

    table = figures(settings, peaks)
    say(machine=timing.machine(), dtype=settings.configuration().model.dtype)
    for name in names:
        say(begin=name)
        begun = time.perf_counter()
        with _counted() as compiled:
            row = _measured(table[name])
        if name == "peaks" and "error" not in row:
            known = row
        say(figure=name, row=row | compiled | {"took": round(time.perf_counter() - begun, 1)})
        # A failure's arrays live as long as what refers to them.
        gc.collect()
        jax.clear_caches()


def _end_with_parent():
    """Ends the process, also inside a compiler, when the one that started it has ended."""
    os.read(0, 1)  # not sys.stdin, whose lock would be held when Python ends
    os._exit(1)


def _measured(figure):
    try:
        return _rounded(figure.measure())
    except Exception as error:  # noqa: BLE001  # whatever one figure does, the rest go on
        traceback.print_exc()
        traceback.clear_frames(error.__traceback__)
        return {"error": f"{type(error).__name__}: {error}"[:600]}


@contextlib.contextmanager
def _counted():
    """Yields a dict that tells, after the block, how many programs it read and compiled."""
    counts = {"programs_read": 0, "programs_compiled": 0}
    names = {"/cache_hits": "programs_read", "/cache_misses": "programs_compiled"}

    def count(event, **_):
        for end, name in names.items():
            counts[name] += event.endswith(end)

    jax.monitoring.register_event_listener(count)
    try:
        yield counts
    finally:
        jax.monitoring.unregister_event_listener(count)


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value
