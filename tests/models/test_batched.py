"""Programs of one batch size: what they compute, and how many of them are kept."""

import gc

import jax
import numpy as np
import pytest

from unitok_jax.models import batched
from unitok_jax.models.batched import BatchedPrograms


def held():
    """How many programs the process holds."""
    gc.collect()
    return len(jax.local_devices()[0].client.live_executables())


def made(devices=1):
    """Programs that multiply rows by a kernel and add their settings, and the kernel."""

    def make(settings):
        return lambda params, seed, rows: rows["x"] * params["kernel"] + settings

    programs = BatchedPrograms(make, 2, jax.devices()[:devices], "float32")
    return programs, programs.place({"kernel": np.float32(3)})


def run(programs, params, settings, *shape):
    rows = {"x": np.arange(np.prod(shape), dtype=np.float32).reshape(shape)}
    found = np.concatenate([*programs.run(settings, params, 0, rows)])
    np.testing.assert_array_equal(found, 3 * rows["x"] + settings)


@pytest.mark.parametrize("devices", [1, 2])
def test_rows_of_any_number(devices):
    for count in (1, 2, 5):
        run(*made(devices), 1, count, 4)


@pytest.mark.parametrize("keyed", ["shapes", "settings"])
def test_programs_long_unused_are_dropped(monkeypatch, keyed):
    monkeypatch.setattr(batched, "PROGRAMS", 2)
    pair = made()
    asked = [(0, 3, n) if keyed == "shapes" else (n, 3, 1) for n in range(1, 7)]
    for each in asked[:2]:
        run(*pair, *each)
    before = held()
    for each in asked[2:]:
        run(*pair, *each)
    assert held() == before


def test_programs_in_use_are_not_compiled_again():
    pair = made()
    for _ in range(2):
        for width in (1, 2, 3):
            run(*pair, 0, 3, width)
    assert pair[0]._program.cache_info().misses == 3
