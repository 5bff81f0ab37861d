"""Jobs of one and two real processes: equal numbers, preemption, death of one, refusals."""

import pathlib
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from helpers.jobs import SETTINGS, Job, environment, free_port, records
from unitok_jax.runtime import processes as cluster

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.processes]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """An undisturbed run of one process with four devices."""
    workdir = tmp_path_factory.mktemp("alone")
    job = Job(workdir / "logs", workdir, 1, 4)
    assert job.wait() == [0], job.output()
    return workdir


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory):
    """Four devices in two processes, stopped in three ways, then in one process."""
    workdir = tmp_path_factory.mktemp("disturbed")
    jobs = {}
    job = jobs["preempted"] = Job(workdir / "preempted", workdir, 2, 2)
    job.wait_for_step(workdir, 1)
    for _ in range(2):  # a supervisor and the cluster may both tell
        job.processes[1].send_signal(signal.SIGTERM)
    codes = {"preempted": job.wait(120)}
    # A second time, before this start has saved anything.
    job = jobs["again"] = Job(workdir / "again", workdir, 2, 2)
    job.wait_for_line("resumed")
    job.processes[0].send_signal(signal.SIGTERM)
    codes["again"] = job.wait(200)
    job = jobs["killed"] = Job(workdir / "killed", workdir, 2, 2)
    job.wait_for_step(workdir, max(6, records(workdir)[-1]["step"] + 1))
    job.processes[1].kill()
    codes["killed"] = job.wait(60)
    jobs["last"] = Job(workdir / "last", workdir, 1, 4)
    codes["last"] = jobs["last"].wait()
    return workdir, jobs, codes


def resumed_at(job):
    return int(re.search(r"resumed .* at step (\d+)", job.output(0))[1])


class TestTwoProcesses:
    def test_a_notice_to_one_stops_all_with_a_checkpoint(self, disturbed):
        _, jobs, codes = disturbed
        assert codes["preempted"] == [cluster.EXIT_PREEMPTED] * 2, jobs["preempted"].output()
        assert "SIGTERM: stopped after step" in jobs["preempted"].output(0)
        assert codes["again"] == [cluster.EXIT_PREEMPTED] * 2, jobs["again"].output()

    def test_death_of_one_ends_the_others_with_an_error(self, disturbed):
        _, jobs, codes = disturbed
        assert codes["killed"][1] == -signal.SIGKILL
        assert not {0, None} & set(codes["killed"]), jobs["killed"].output()

    def test_each_start_went_on_where_the_one_before_was_saved(self, disturbed):
        _, jobs, codes = disturbed
        assert codes["last"] == [0], jobs["last"].output()
        first, stopped = (
            int(re.search(r"stopped a\w+ step (\d+)", jobs[name].output(0))[1])
            for name in ("preempted", "again")
        )
        assert resumed_at(jobs["again"]) == first and resumed_at(jobs["killed"]) == stopped
        # The save of step 4 may or may not have been complete when the process was killed.
        assert resumed_at(jobs["last"]) in {4, stopped}

    def test_numbers_are_those_of_one_process(self, alone, disturbed):
        """Losses, codebooks, retrieval and pictures, over starts with other hosts."""
        ours, expected = records(disturbed[0]), records(alone)
        assert [record.keys() for record in ours] == [record.keys() for record in expected]
        for record, other in zip(ours, expected, strict=True):
            for key in record:
                # Sums over other hosts round differently, and a rounding that crosses a kink of
                # LPIPS moves a gradient by up to 1e-4: test_sharding compares one step of smooth
                # networks to 1e-5.
                np.testing.assert_allclose(
                    record[key], other[key], rtol=1e-4, atol=1e-7, err_msg=key
                )
        pictures = sorted(path.name for path in (alone / "images").iterdir())
        assert pictures == sorted(path.name for path in (disturbed[0] / "images").iterdir())
        for name in pictures:
            one, other = (
                np.asarray(Image.open(folder / "images" / name)).astype(int)
                for folder in (alone, disturbed[0])
            )
            assert np.abs(one - other).max() <= 2  # the error's panel doubles a rounding

    def test_only_process_0_writes(self, disturbed):
        _, jobs, _ = disturbed
        assert "step 1/8" in jobs["preempted"].output(0)
        assert "step 1/8" not in jobs["preempted"].output(1)


class TestDisagreement:
    """Found before anything is compiled, on every process."""

    def test_command(self, tmp_path):
        each = [[], ["--config.optim.learning_rate=1e-3", "--config.data.num_threads=2"]]
        job = Job(tmp_path / "logs", tmp_path, 2, 1, each=each)
        assert job.wait(120) == [2, 2]
        for process in range(2):
            output = job.output(process)
            assert "--config.optim.learning_rate: 0.0001 on process 0, 0.001 on process 1" in output
            assert "--config.data.num_threads: 1 on process 0, 2 on process 1" in output
            assert "Traceback" not in output

    def test_code(self, tmp_path):
        """A host whose checkout is another version."""
        code = (
            "import sys, pathlib, shutil\n"
            "copy = pathlib.Path(sys.argv[1]); sys.path.insert(0, str(copy))\n"
            "from unitok_jax.runtime import processes\n"
            "from unitok_jax.tokenizer import run\n"
            "from unitok_jax.training import loop\n"
            "assert str(copy) in loop.__file__\n"
            "from configs import tiny\n"
            "processes.connect('none', sys.argv[2], 2, int(sys.argv[3]), 60)\n"
            "with processes.ExitTogether():\n"
            "    loop.train(run.Run, tiny.get_config(), sys.argv[4])\n"
        )
        for host in ("a", "b"):
            for folder in ("unitok_jax", "configs"):
                shutil.copytree(folder, tmp_path / host / folder)
        with (tmp_path / "b" / "unitok_jax" / "tokenizer" / "losses.py").open("a") as file:
            file.write("\n# another version\n")
        address = f"127.0.0.1:{free_port()}"
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", code, tmp_path / host, address, str(i), tmp_path / "w"],
                stderr=subprocess.PIPE,
                text=True,
                cwd=tmp_path,
            )
            for i, host in enumerate(("a", "b"))
        ]
        for process in processes:
            error = process.communicate(timeout=120)[1]
            assert process.returncode == 1
            assert "digest of the code: " in error and "on process 1" in error

    def test_workdir_that_is_not_shared(self, alone, tmp_path):
        """The same --workdir names a disk of its own on each host; process 1's is empty."""
        code = (
            "import sys\n"
            "from absl import app\n"
            "from unitok_jax import main\n"
            "from unitok_jax.training import loop\n"
            "from unitok_jax.commands.config_flags import parse_or_exit\n"
            "loop._LAG_SECONDS = 1\n"
            "app.run(main.main, flags_parser=parse_or_exit)\n"
        )
        shutil.copytree(alone, tmp_path / "0" / "run")
        (tmp_path / "1").mkdir()
        address = f"127.0.0.1:{free_port()}"
        root = pathlib.Path(__file__).parents[2]
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", code]
                + [setting.replace("configs/", f"{root}/configs/") for setting in SETTINGS]
                + ["--workdir=run", f"--coordinator={address}", "--processes=2", f"--process={i}"],
                env=environment(2) | {"PYTHONPATH": str(root)},
                cwd=tmp_path / str(i),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for i in range(2)
        ]
        for process in processes:
            error = process.communicate(timeout=200)[1]
            assert process.returncode == 2, error
            assert "checkpoints in --workdir: [4, 8] on process 0, [] on process 1" in error

    def test_an_image_that_one_process_cannot_read(self, tmp_path):
        """The processes share the images of the evaluation; a bad one ends all of them alike."""
        images = tmp_path / "images"
        images.mkdir()
        for index in range(4):
            Image.new("RGB", (48, 48), (60 * index, 0, 0)).save(images / f"{index}.png")
            (images / f"{index}.txt").write_text(f"number {index}")
        (images / "1.png").write_bytes(b"no image")
        more = ["--config.eval.source=folder", f"--config.eval.path={images}"]
        job = Job(tmp_path / "logs", tmp_path / "run", 2, 1, *more)
        assert job.wait(200) == [2, 2], job.output()
        assert "process 1: " in job.output(0) and "1.png" in job.output(0)
        assert "Traceback" not in job.output()


class TestUnreachable:
    """Told within --connect_timeout; exit code 1, for the others may come later."""

    @pytest.mark.parametrize(
        "process, words",
        [
            (1, "--coordinator={} cannot be reached from process 1 for 3 s"),
            (0, "the 2 processes of the job did not meet at {} within 3 s"),
        ],
        ids=["coordinator", "other"],
    )
    def test_a_process_that_never_comes(self, tmp_path, process, words):
        address = f"127.0.0.1:{free_port()}"
        flags = f"--coordinator={address}", "--processes=2", f"--process={process}"
        job = Job(tmp_path / "logs", tmp_path, 1, 1, *flags, "--connect_timeout=3")
        assert job.wait(60) == [1]
        assert words.format(address) in job.output()
