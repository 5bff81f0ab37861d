"""Traces of real steps of a small program: which steps they hold, and when there is none."""

import gzip
import time

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from helpers.traces import traced_steps
from unitok_jax.training.clock import Clock
from unitok_jax.training.profiling import Tracer


@pytest.fixture
def loop(tmp_path):
    """(steps, lead, **config.log) -> runs the steps of a loop and closes its tracer."""

    @jax.jit
    def program(x):
        return x @ x

    def run(steps, lead=True, profile_steps=(), profile_count=2, memory_profile=False):
        config = ConfigDict(
            {
                "profile_steps": profile_steps,
                "profile_count": profile_count,
                "memory_profile": memory_profile,
            }
        )
        clock = Clock(tmp_path, time.time(), lead)
        tracer = Tracer(tmp_path, config, steps[0], clock)
        for step in steps:
            with tracer.step(step):
                out = program(jnp.ones((8, 8)))
            if tracer.ends(step) or step == steps[0]:
                jax.block_until_ready(out)
                tracer.done(step, lambda: {"temporaries": 2**29})
            tracer.poll(step)
        tracer.close()

    return run


def test_the_steps_asked_for(loop, tmp_path):
    loop(range(1, 8), profile_steps=(3,), profile_count=3)
    assert traced_steps(tmp_path) == [[3, 4, 5]]


def test_a_trace_that_was_passed_is_skipped(loop, tmp_path):
    """A run that resumes at step 4, inside what was to be traced, does not trace a part of it."""
    loop(range(4, 8), profile_steps=(1, 3), profile_count=2)
    assert not (tmp_path / "profile").exists()


def test_a_trace_that_the_end_of_the_run_cuts_short_is_written(loop, tmp_path):
    loop(range(1, 5), profile_steps=(4,), profile_count=3)
    assert traced_steps(tmp_path) == [[4]]


def test_a_live_run_is_asked_by_a_file(loop, tmp_path):
    (tmp_path / "profile_now").touch()
    loop(range(5, 12))
    assert traced_steps(tmp_path) == [[6, 7]]
    assert not (tmp_path / "profile_now").exists()


def test_other_processes_write_nothing(loop, tmp_path):
    (tmp_path / "profile_now").touch()
    loop(range(1, 5), lead=False, profile_steps=(2,), memory_profile=True)
    assert [path.name for path in tmp_path.iterdir()] == ["profile_now"]


def test_memory_after_the_first_step_of_a_start(loop, tmp_path, caplog):
    with caplog.at_level("INFO"):
        loop(range(5, 8), memory_profile=True)
    content = gzip.decompress((tmp_path / "profile" / "memory_00000005.prof").read_bytes())
    assert b"buffer" in content
    assert "the step plans temporaries 0.50 GiB" in caplog.text
    assert "tells nothing of its memory" in caplog.text or "bytes_in_use" in caplog.text
