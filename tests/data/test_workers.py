"""Worker processes: the shared memory that they need, and how their sudden ends are told."""

import contextlib
import errno
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time

import ml_collections
import numpy as np
import pytest

from helpers.formats import config, jpeg, take
from helpers.mounts import tmpfs
from unitok_jax.data import reading, workers
from unitok_jax.data.pipeline import train_batches
from unitok_jax.runtime import processes

pytestmark = pytest.mark.slow

ENDED = "Worker process was terminated unexpectedly with exit code {}. Search the logs above"


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "images"
    home.mkdir()
    for index in range(8):
        (home / f"{index}.jpg").write_bytes(jpeg(index))
        (home / f"{index}.txt").write_text(f"picture {index}")
    return home


def first(folder, **values):
    return take(train_batches(config("folder", folder, **values), 0), 1)


def failing(error):
    """An iterator that raises after one batch."""
    yield 1
    raise error


class TestSharedMemory:
    """Containers have 64 MB of it; a write beyond what there is kills the worker that writes."""

    def test_too_little_is_told_before_a_worker_starts(self, folder, tmp_path, monkeypatch):
        with tmpfs(tmp_path / "shm", "size=64k") as small:
            monkeypatch.setattr(workers, "SHARED_MEMORY", str(small))
            first(folder)  # in threads
            with pytest.raises(ValueError, match=r"^data.num_workers: .*shm has 0 MiB free, .* ta"):
                first(folder, num_workers=1, image_size=(256, 256))

    def test_a_system_that_has_none(self, folder, tmp_path, monkeypatch):
        monkeypatch.setattr(workers, "SHARED_MEMORY", str(tmp_path / "none"))
        assert len(first(folder, num_workers=1)) == 1


class TestEnds:
    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (OSError(errno.ENOSPC, "No space left"), "/dev/shm is full: give .*--shm-size="),
            (RuntimeError(ENDED.format(-7)), "was killed, for /dev/shm is full: .*emptyDir"),
            (RuntimeError(ENDED.format(-9)), "was killed, perhaps for want of memory: lower"),
            (RuntimeError(ENDED.format(1)), "a worker ended with exit code 1"),
        ],
    )
    def test_the_cause_is_named(self, error, message):
        batches = workers.BatchStream(failing(error))
        assert next(batches) == 1
        with pytest.raises(workers.LostWorker, match=f"^data.num_workers: .*{message}") as raised:
            next(batches)
        assert processes.may_pass(raised.value)  # a supervisor starts the run again
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize("error", [RuntimeError("x"), OSError(errno.EIO, "x"), ValueError("x")])
    def test_other_errors_stay(self, error):
        batches = workers.BatchStream(failing(error))
        next(batches)
        with pytest.raises(type(error)) as raised:
            next(batches)
        assert raised.value is error

    @pytest.mark.parametrize("name", ["SIGKILL", "SIGBUS"])
    def test_a_worker_that_is_killed(self, folder, name):
        message = {"SIGKILL": "want of memory", "SIGBUS": "for /dev/shm is full"}[name]
        with contextlib.closing(train_batches(config("folder", folder, num_workers=1), 0)) as found:
            next(found)
            (child,) = multiprocessing.active_children()
            os.kill(child.pid, getattr(signal, name))
            with pytest.raises(workers.LostWorker, match=re.escape(message)):
                for _ in range(100):
                    next(found)


def blocked(_, images):
    """Whether the thread that reads was born deaf to signals, as all of its process then were."""
    deaf = {signal.SIGINT, signal.SIGTERM} <= signal.pthread_sigmask(signal.SIG_BLOCK, [])
    return {"deaf": np.array([deaf])}


blocked.image_shape = (1, 1, 3)


def test_workers_never_hear_what_a_whole_job_is_sent():
    """Not even while Python starts in them: whoever presses Ctrl-C sees no traceback of theirs."""
    data = ml_collections.ConfigDict({"num_threads": 1, "num_workers": 3})
    # One batch is fewer chunks than there are workers: the last starts with a later batch.
    with contextlib.closing(reading.stream(blocked, 1, [0], data, batches=6)) as found:
        assert [batch["deaf"].tolist() for batch in found] == [[True]] * 6
    heard = {signal.SIGINT, signal.SIGTERM}
    assert not heard & signal.pthread_sigmask(signal.SIG_BLOCK, [])


def wait_for_the_end(ready):
    workers.end_with_parent()
    ready.set()
    time.sleep(100)


def test_sigterm_counts_from_the_parent_alone():
    """A scheduler sends it to the whole job, whose last step still needs batches."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    worker = context.Process(target=wait_for_the_end, args=(ready,), daemon=True)
    with workers.starting():
        worker.start()
    assert ready.wait(60)
    kill = "import os, signal, sys; os.kill(int(sys.argv[1]), signal.SIGTERM)"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", kill, str(worker.pid)], check=True)
    worker.join(1)
    assert worker.is_alive()
    worker.terminate()  # as Python does with daemons at its end
    worker.join(30)
    assert worker.exitcode == 128 + signal.SIGTERM
