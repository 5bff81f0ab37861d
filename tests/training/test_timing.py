"""The clock of the loop: on a clock of its own, and in real runs, one of them killed."""

import contextlib
import itertools
import re
import signal
import subprocess
import time
import types

import jax
import pytest

from helpers.jobs import records
from helpers.runs import ENVIRONMENT, command, run
from helpers.traces import traced_steps
from unitok_jax.data.health import Notes
from unitok_jax.data.pipeline import Batches
from unitok_jax.tokenizer.run import Run
from unitok_jax.training import clock as timing
from unitok_jax.training import goodput, loop
from unitok_jax.training.clock import Clock

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture
def passing(monkeypatch):
    """A function that lets seconds pass, on a clock that stands still otherwise."""
    now = [1000.0]

    def passing(seconds):
        now[0] += seconds

    fake = types.SimpleNamespace(monotonic=lambda: now[0] - 300, time=lambda: now[0])
    monkeypatch.setattr(timing, "time", fake)
    return passing


def opened(workdir, passing, step=0, lead=True):
    """A clock after the first step of a process: it began 2 s before, opened after 3, 5 more."""
    clock = Clock(workdir, 998.0, lead)
    passing(3)
    clock.open(step, 9, 4, "images", {"device": "cpu"})
    with clock.during("input"):
        passing(1)
    passing(4)
    clock.tick(step + 1)
    return clock


def iteration(clock, passing, wait, device, ticks):
    """One turn of the loop; `device` are the seconds that each fetch blocks."""
    with clock.during("input"):
        passing(wait)
    for step, seconds in zip(ticks, device, strict=True):
        passing(seconds)
        clock.tick(step)


class TestClock:
    def test_everything_until_the_first_step_is_the_start(self, tmp_path, passing):
        with opened(tmp_path, passing):
            passing(0.5)
        first, second, third = timing.read(tmp_path)
        assert first == {
            "start": 1,
            "time": 1003.0,
            "step": 0,
            "seconds": {"starting": 5.0},
            "goal": 9,
            "device": "cpu",
        }
        assert second["seconds"] == {"starting": 5.0} and second["step"] == 1
        assert third["seconds"] == {"training": 0.5} and third["time"] == 1008.5

    def test_a_wait_behind_the_device_costs_nothing(self, tmp_path, passing):
        """Steps of 1 s, waits of 0.2 s: only the first wait finds the device idle."""
        clock = opened(tmp_path, passing)
        iteration(clock, passing, 0.2, (), ())
        iteration(clock, passing, 0.2, (0.8,), (2,))
        iteration(clock, passing, 0.2, (0.8, 1.0), (3, 4))
        values = clock.record()
        assert values["time/input_share"] == pytest.approx(0.2 / 3.2)
        assert values["time/step_device"] == pytest.approx(1.0)
        assert values["time/step_p50"] == pytest.approx(1.0)
        assert values["time/step_max"] == pytest.approx(1.2)
        assert values["time/images_per_second"] == pytest.approx(3 * 4 / 3.2)

    def test_a_wait_beyond_the_device_counts(self, tmp_path, passing):
        """Steps of 1 s, waits of 3 s: the device works for 3 s of 10."""
        clock = opened(tmp_path, passing)
        iteration(clock, passing, 3, (), ())
        iteration(clock, passing, 3, (0,), (2,))
        iteration(clock, passing, 3, (0, 1), (3, 4))
        values = clock.record()
        assert values["time/input_share"] == pytest.approx(0.7)
        assert timing.read(tmp_path)[-1]["seconds"] == {"training": 3.0, "input": 7.0}

    def test_evaluations_and_saves_are_no_part_of_a_step(self, tmp_path, passing):
        clock = opened(tmp_path, passing)
        iteration(clock, passing, 0, (1,), (2,))
        clock.record()
        with clock.during("evaluation"):
            passing(50)
        with clock.during("saving"):
            passing(7)
        assert clock.record() == {}
        assert timing.read(tmp_path)[-1]["seconds"] == {"evaluation": 50.0, "saving": 7.0}
        iteration(clock, passing, 0, (2,), (3,))
        assert clock.record()["time/step_max"] == 2

    def test_percentiles(self, tmp_path, passing):
        clock = opened(tmp_path, passing)
        for step in range(2, 13):
            iteration(clock, passing, 0, (step - 1,), (step,))
        values = clock.record()
        assert (values["time/step_p50"], values["time/step_p90"]) == (6, 10)
        assert values["time/step_max"] == 11

    def test_an_error_books_the_rest(self, tmp_path, passing):
        with contextlib.suppress(ArithmeticError), opened(tmp_path, passing) as clock:
            iteration(clock, passing, 0, (2,), (2,))
            passing(1)
            raise ArithmeticError
        assert timing.read(tmp_path)[-1]["seconds"] == {"training": 3.0}
        assert timing.read(tmp_path)[-1]["step"] == 2

    def test_starts_are_counted_beyond_a_line_cut_short(self, tmp_path, passing):
        opened(tmp_path, passing)
        with (tmp_path / timing.FILE).open("a") as file:
            file.write('{"start": 1, "tim')
        opened(tmp_path, passing, step=1)
        opened(tmp_path, passing, step=1)
        assert [r["start"] for r in timing.read(tmp_path)] == [1, 1, 2, 2, 3, 3]

    def test_only_the_lead_writes(self, tmp_path, passing):
        with opened(tmp_path, passing, lead=False) as clock:
            iteration(clock, passing, 0, (2,), (2,))
            assert clock.record()["time/step_max"] == 2
        assert not list(tmp_path.iterdir())

    def test_a_refused_start_leaves_nothing(self, tmp_path):
        with contextlib.suppress(ValueError), Clock(tmp_path, time.time(), lead=True):
            raise ValueError
        assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of six steps, two of them traced: its workdir and what it printed."""
    workdir = tmp_path_factory.mktemp("traced")
    result = run(
        workdir,
        "--config.log.profile_steps=(5,)",
        "--config.log.profile_count=2",
        "--config.log.memory_profile",
    )
    assert result.returncode == 0, result.stderr
    return workdir, result.stderr


class TestARun:
    def test_trace(self, finished):
        assert traced_steps(finished[0]) == [[5, 6]]
        assert "traced up to step 6" in finished[1]

    def test_memory(self, finished):
        assert (finished[0] / "profile" / "memory_00000001.prof").stat().st_size
        plan = re.search(
            r"memory_00000001.prof; the step plans .*temporaries (.*) GiB", finished[1]
        )
        assert 0.05 < float(plan[1]) < 5

    def test_records(self, finished):
        start, *rest = timing.read(finished[0])
        assert (start["step"], start["goal"]) == (0, 6)
        assert (start["processes"], start["devices"], start["device"]) == (1, 1, "cpu")
        assert start["jax"] == jax.__version__
        timed = [record for record in rest if "time/step_p50" in record]
        assert [record["step"] for record in timed] == [2, 3, 4, 5, 6]
        longest = max(record["time/step_max"] for record in timed)
        assert all(0 < record["time/step_device"] <= longest for record in timed)
        spent = set().union(*(record["seconds"] for record in rest))
        assert spent == set(timing.KINDS)

    def test_the_seconds_are_all_there(self, finished):
        """What is booked is the time that passed, here by two clocks that agree to 0.5 s."""
        written = timing.read(finished[0])
        booked = sum(sum(record["seconds"].values()) for record in written[1:])
        assert booked == pytest.approx(written[-1]["time"] - written[0]["time"], abs=0.5)

    def test_curves(self, finished):
        (events,) = (finished[0] / "tensorboard").iterdir()
        content = events.read_bytes()
        for name in (b"time/step_p90", b"time/input_share", b"time/goodput"):
            assert name in content
        assert "time/" not in (finished[0] / "metrics.jsonl").read_text()

    def test_goodput_is_told(self, finished):
        found = goodput.measure(finished[0])
        assert f"goodput {found.share:.3f}, starts: 1; training" in finished[1]
        assert (found.step, found.goal) == (6, 6) and 0 < found.share < 1


def test_a_killed_run(finished, tmp_path):
    """Its repeated steps are counted, and neither they nor a trace change the metrics."""
    process = subprocess.Popen(
        command(tmp_path), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    path, deadline = tmp_path / timing.FILE, time.monotonic() + 300
    while not (
        (tmp_path / "checkpoints" / "2").exists()
        and path.exists()
        and any(record["step"] == 3 for record in timing.read(tmp_path))
    ):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    result = run(tmp_path)
    assert result.returncode == 0, result.stderr
    assert records(tmp_path) == records(finished[0])

    written = timing.read(tmp_path)
    first = [record for record in written if record["start"] == 1]
    second = [record for record in written if record["start"] == 2]
    assert first + second == written
    saved = second[0]["step"]
    lost = [record["seconds"] for record in first if record["step"] > saved]
    found = goodput.measure(tmp_path)
    assert saved < first[-1]["step"] and second[-1]["step"] == 6
    repeated = sum(s.get("training", 0) + s.get("input", 0) for s in lost)
    assert found.seconds["repeated"] == pytest.approx(repeated) and repeated > 0
    assert found.seconds["down"] > 0 and found.set_back == 0
    began = written[0]["time"] - written[0]["seconds"]["starting"]
    total = sum(found.seconds.values())
    assert total == pytest.approx(written[-1]["time"] - began, abs=0.5)


class Fed(Run):
    """A Run on one device whose fifth and later batches come five times slower than its steps."""

    def __init__(self, config):
        super().__init__(config, jax.devices()[:1])

    def batches(self, start_step):
        with contextlib.closing(super().batches(start_step)) as batches:
            batch = next(batches)
        return Batches([self._slowly(batch)], batches.health)

    def _slowly(self, batch):
        asked = [time.monotonic()]
        for _ in range(4):
            yield batch | {"notes": Notes(1, 2)}
            asked.append(time.monotonic())
        longest_step = max(after - before for before, after in itertools.pairwise(asked[1:]))
        for _ in range(4):
            time.sleep(0.1 + 5 * longest_step)
            yield batch | {"notes": Notes(1, 2)}


def test_a_slow_source_shows(tiny, tmp_path):
    tiny.model.size, tiny.model.quant_heads, tiny.data.image_size = "nano", 2, (32, 32)
    tiny.data.batch_size = tiny.eval.max_images = tiny.eval.batch_size = 4
    tiny.steps = tiny.eval.every = tiny.checkpoint.every = 8
    tiny.log.every, tiny.log.tensorboard = 4, False
    loop.train(Fed, tiny, str(tmp_path))
    fast, slow = (r for r in timing.read(tmp_path) if "time/step_p50" in r)
    assert (fast["step"], slow["step"]) == (4, 8)
    assert fast["time/input_share"] < 0.5 < slow["time/input_share"]
    assert slow["seconds"]["input"] > slow["seconds"]["training"]
    assert "time/" not in (tmp_path / "metrics.jsonl").read_text()
