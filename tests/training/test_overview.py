"""What a log says at the start of a run."""

import types

import jax
import numpy as np

from configs import tiny
from unitok_jax.runtime import sharding
from unitok_jax.training import overview


def test_size_of_a_run():
    run = types.SimpleNamespace(
        config=tiny.get_config(),
        mesh=sharding.make_mesh(2, 1, jax.devices()[:2]),
        samples=100,
        origin="photos",
        batch_size=8,
        unit="images",
        samples_per_row=1,
    )
    assert overview.run_lines(run, "/runs/a") == [
        "data: 100 samples of photos, batches of 8 images: "
        "12.5 steps an epoch, 16.00 epochs in 200 steps",
        "devices: 2 x cpu, mesh data 2 x fsdp 1, processes: 1; model.dtype=float32",
        "workdir: /runs/a",
    ]
    run.unit, run.samples_per_row = "rows", 2.5
    assert overview.run_lines(run, "/runs/a")[0] == (
        "data: 100 samples of photos, batches of 8 rows of 2.5 samples each: "
        "5.0 steps an epoch, 40.00 epochs in 200 steps"
    )


def test_a_row_for_each_part():
    parts = {
        "encoder": {"a": np.zeros((3, 4), np.float32)},
        "logit_scale": np.float32(1),
        "discriminator": {"b": np.zeros(1_000_000, np.float16)},
    }
    assert overview.part_table(parts).splitlines() == [
        "  encoder                   12         0.0 MB",
        "  logit_scale                1         0.0 MB",
        "  discriminator      1,000,000         2.0 MB",
        "  total              1,000,013         2.0 MB",
    ]


class TestWait:
    facts = {"devices": 8, "device": "v5e"}

    def records(self, *starts):
        for number, (facts, seconds) in enumerate(starts, 1):
            yield {"start": number, "seconds": {"starting": 3.0}, "goal": 9, **facts}
            if seconds:
                yield {"start": number, "seconds": {"starting": seconds}}
                yield {"start": number, "seconds": {"training": 100.0}}

    def test_by_the_last_start_on_such_devices(self):
        records = list(
            self.records(
                (self.facts, 70.0),
                (self.facts, 20.4),
                (self.facts | {"devices": 4}, 50.0),
                (self.facts, None),  # killed before its first step
            )
        )
        line = overview.waiting_line(records, self.facts)
        assert line == "compiling the first step; the last start took 20 s for it ..."

    def test_nothing_is_promised_without_one(self):
        records = list(self.records((self.facts | {"device": "cpu"}, 50.0)))
        assert overview.waiting_line(records, self.facts) == "compiling the first step ..."
        assert overview.waiting_line([], self.facts) == "compiling the first step ..."
