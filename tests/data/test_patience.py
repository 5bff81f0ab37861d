"""Disks that are away for moments: what is tried again, what is given up, and how it is told."""

import errno
import os
import pickle

import pytest

from helpers import disks
from unitok_jax.data import patience
from unitok_jax.data.formats import parquet, shard_names
from unitok_jax.data.formats.folders import image_names
from unitok_jax.data.health import Notes, SampleError
from unitok_jax.data.replacement import TRIES, usable
from unitok_jax.data.tars import shards
from unitok_jax.system.passing import AwayError, TryAgainError, may_pass, with_text
from unitok_jax.system.paths import is_there


@pytest.fixture
def waited(monkeypatch):
    """The seconds that were waited."""
    seconds = []
    monkeypatch.setattr(patience.time, "sleep", seconds.append)
    return seconds


def failing(*errors):
    """Reads an index after these errors; and the indices that were tried."""
    left, tried = list(errors), []

    def read(index):
        tried.append(index)
        if left:
            raise left.pop(0)
        return index

    return read, tried


def stale():
    return OSError(errno.ESTALE, "stale")


@pytest.mark.parametrize("count", range(len(patience.PAUSES) + 1))
def test_moments_are_waited_for(waited, count):
    read, tried = failing(*[stale() for _ in range(count)])
    assert patience.read_patiently(read, 7) == 7
    assert tried == [7] * (count + 1) and waited == list(patience.PAUSES[:count])


def test_longer_is_not(waited):
    read, tried = failing(*[stale() for _ in range(99)])
    with pytest.raises(OSError, match="stale") as error:
        patience.read_patiently(read, 7)
    assert may_pass(error.value) and len(tried) == len(patience.PAUSES) + 1


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "gone"),
        PermissionError(errno.EACCES, "denied"),
        SampleError("damaged", "damaged"),
        AwayError("several tries were made"),
    ],
)
def test_what_no_moment_mends_is_told_at_once(waited, error):
    read, tried = failing(error)
    with pytest.raises(type(error)):
        patience.read_patiently(read, 7)
    assert tried == [7] and not waited


class TestReplacement:
    def test_a_moment_replaces_nothing(self, waited):
        notes = Notes()
        assert usable(failing(stale(), stale())[0], 3, 100, notes) == 3
        assert not notes.skipped.total

    def test_a_file_that_stays_away_is_replaced(self, waited):
        notes = Notes()
        read, _ = failing(*[stale() for _ in range(len(patience.PAUSES) + 1)])
        assert usable(read, 3, 100, notes) == 4
        assert notes.skipped.counts == {"unreadable": 1}

    def test_a_disk_that_stays_away_may_be_back_later(self, waited):
        """So that a supervisor starts the run again, which damaged samples do not."""
        read, tried = failing(*[stale() for _ in range(999)])
        with pytest.raises(AwayError, match=f"{TRIES} samples in a row.*stale") as error:
            usable(read, 3, 100, Notes())
        assert may_pass(error.value) and len(set(tried)) == TRIES
        read, _ = failing(*[SampleError("damaged", "damaged") for _ in range(999)])
        with pytest.raises(SampleError):
            usable(read, 3, 100, Notes())


class TestFolders:
    @pytest.fixture
    def nested(self, tmp_path):
        (tmp_path / "in" / "below").mkdir(parents=True)
        for name in ("in/a.png", "in/a.parquet", "in/below/b.png", "in/below/b.parquet"):
            (tmp_path / name).touch()
        return tmp_path / "in"

    def lists(self, folder):
        return [
            lambda: list(image_names(folder)),
            lambda: shard_names.in_folder(folder, ".parquet", "data.path", below=True),
        ]

    def test_one_that_is_away_is_no_empty_one(self, nested, monkeypatch):
        disks.hide(monkeypatch, nested / "below")
        for listed in self.lists(nested):
            with pytest.raises(OSError) as error:
                listed()
            assert may_pass(error.value)

    def test_one_without_permission_is_told(self, nested, monkeypatch, caplog):
        disks.hide(monkeypatch, nested / "below", errno.EACCES)
        for number, listed in enumerate(self.lists(nested), 1):
            assert len(listed()) == 1
            assert caplog.text.count("below is left out: Permission denied") == number

    def test_a_path_that_nothing_tells_of(self, tmp_path, monkeypatch):
        assert not is_there(tmp_path / "a" / "b") and is_there(tmp_path)
        (tmp_path / "link").symlink_to("nowhere")
        (tmp_path / "file").touch()
        assert is_there(tmp_path / "link") and not is_there(tmp_path / "file" / "below")

        def away(path):
            raise stale()

        monkeypatch.setattr(os, "lstat", away)
        for find in (
            lambda: shards.expand(str(tmp_path / "a.tar")),
            lambda: parquet.find_files(str(tmp_path / "a.parquet")),
        ):
            with pytest.raises(OSError, match="stale"):
                find()


class TestTexts:
    @pytest.mark.parametrize(
        "error, kind",
        [
            (stale(), AwayError),
            (TimeoutError("late"), AwayError),
            (TryAgainError("busy"), AwayError),
            (FileNotFoundError(2, "gone"), FileNotFoundError),
            (ValueError("wrong"), ValueError),
        ],
    )
    def test_of_another_place_keep_whether_it_may_pass(self, error, kind):
        told = with_text(error, f"data.path: {error}")
        assert type(told) is kind and str(told) == f"data.path: {error}"
        assert may_pass(told) is may_pass(error)

    def test_come_out_of_a_worker(self):
        again = pickle.loads(pickle.dumps(AwayError("far")))
        assert type(again) is AwayError and str(again) == "far" and may_pass(again)


def test_an_error_without_a_number_is_no_moment():
    assert not may_pass(OSError("of a file that has changed"))
