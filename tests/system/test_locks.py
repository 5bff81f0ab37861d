"""Locks of files, and disks without any."""

import errno
import threading

import pytest

from unitok_jax.system import locks


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


def test_a_second_is_refused_until_the_first_is_closed(path):
    with open(path, "a") as first, open(path, "a") as second:
        assert locks.lock(first)
        with pytest.raises(BlockingIOError):
            locks.lock(second)
        first.close()
        assert locks.lock(second)


def test_waiting(path):
    with open(path, "a") as first, open(path, "a") as second:
        locks.lock(first)
        threading.Timer(0.1, first.close).start()
        assert locks.lock(second, wait=True) and first.closed


def test_a_disk_without_locks(path, monkeypatch):
    def fail(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(locks.fcntl, "flock", fail)
    with open(path, "a") as file:
        assert not locks.lock(file)
