"""The workdir: who may write to it, and what is told when nobody can."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from helpers import mounts
from unitok_jax.runtime import workdir

HOLD = """
import pathlib, sys, time
from unitok_jax.runtime import workdir
with workdir.lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


class TestMake:
    def test_makes_the_folder(self, tmp_path):
        folder = workdir.make(tmp_path / "a" / "b")
        assert folder.is_dir() and not list(folder.iterdir())

    def test_no_folder(self):
        with pytest.raises(ValueError, match="--workdir is empty"):
            workdir.make("")

    def test_relative_paths_are_made_absolute(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert str(workdir.make("run")) == str(tmp_path / "run")

    def test_a_home(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert str(workdir.make("~/run")) == str(tmp_path / "run")

    def test_a_file_in_its_place(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match="--workdir=.*file cannot be written"):
            workdir.make(tmp_path / "file")

    def test_a_read_only_disk(self, tmp_path):
        with mounts.tmpfs(tmp_path / "disk", "size=1m") as disk:
            (disk / "run").mkdir()
            mounts.make_read_only(disk)
            for folder in (disk / "run", disk / "new"):
                with pytest.raises(OSError, match=f"--workdir={folder} cannot be written: .*Read"):
                    workdir.make(folder)

    def test_a_full_disk(self, tmp_path):
        with mounts.tmpfs(tmp_path / "disk", "size=1m,nr_inodes=2") as disk:
            (disk / "only").write_text("")
            with pytest.raises(OSError, match=f"--workdir={disk} cannot be written: .*No space"):
                workdir.make(disk)

    def test_a_bucket_without_the_package(self, monkeypatch):
        for name in ("gcsfs", "tensorflow"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ValueError, match=r"gs://bucket/run needs .*'\.\[gcs\]'"):
            workdir.make("gs://bucket/run")


class TestLock:
    def test_a_second_run_is_refused_until_the_first_is_dead(self, tmp_path):
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(workdir.BusyError, match=f"another run writes to {tmp_path}"):
                with workdir.lock(tmp_path):
                    pytest.fail("two runs hold the workdir")
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.wait(timeout=30)
            holder.stdout.close()
        with workdir.lock(tmp_path):
            pass

    def test_it_is_released(self, tmp_path):
        for _ in range(2):
            with workdir.lock(tmp_path):
                pass

    def test_other_errors_are_raised(self, tmp_path, monkeypatch):
        def fail(*_):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(workdir.locks.fcntl, "flock", fail)
        with pytest.raises(OSError, match="Input/output"):
            with workdir.lock(tmp_path):
                pytest.fail("a lock that failed")


class TestWrite:
    def test_whole_or_not_at_all(self, tmp_path, monkeypatch):
        """What a reader sees while the new text is written is the old one."""
        path = tmp_path / "config.json"
        workdir.write(path, "old")
        seen = []
        replace = os.replace

        def watched(new, old):
            seen.append(pathlib.Path(old).read_text())
            replace(new, old)

        monkeypatch.setattr(workdir.os, "replace", watched)
        workdir.write(path, "new")
        assert seen == ["old"] and path.read_text() == "new"
        assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_what_is_full():
    assert workdir.is_full(OSError(28, "No space left on device"))
    assert workdir.is_full(ValueError("RESOURCE_EXHAUSTED: ...: No space left on device [28]"))
    assert not workdir.is_full(ValueError("UNAVAILABLE: network"))
    assert not workdir.is_full(OSError(5, "Input/output error"))
