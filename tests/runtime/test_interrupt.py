"""Ctrl-C, by real signals to real processes: the first saves, the second ends at once."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from helpers.jobs import Job, environment, free_port, records
from unitok_jax.checkpoints.manager import Checkpoints
from unitok_jax.runtime import processes as cluster

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.processes]

ENDLESS = [
    "--config.steps=100000",
    "--config.loss.perceptual=0.0",
    "--config.eval.every=100000",
    "--config.checkpoint.every=100000",
    "--config.log.tensorboard=False",
]
FIRST = "Ctrl-C: this step is finished and saved; once more ends at once"


@pytest.fixture(autouse=True)
def listening():
    """What runs in the background of a shell ignores SIGINT, and so would its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def quiet(output):
    return "Traceback" not in output and "KeyboardInterrupt" not in output


def test_the_first_saves_and_the_second_ends_at_once(tmp_path):
    """To the whole group, as a terminal sends it: data workers leave it to their parent."""
    workers = "--config.data.num_workers=2"
    job = Job(tmp_path / "1", tmp_path, 1, 1, *ENDLESS, workers, start_new_session=True)
    job.wait_for_step(tmp_path, 2)
    os.killpg(job.processes[0].pid, signal.SIGINT)
    assert job.wait(120) == [cluster.EXIT_INTERRUPTED], job.output()
    output = job.output()
    assert quiet(output) and output.count(FIRST) == 1, output
    stopped = int(re.search(r"Ctrl-C: stopped after step (\d+); the same command", output)[1])
    assert Checkpoints(tmp_path).steps() == [stopped]
    assert records(tmp_path)[-1]["step"] == stopped

    job = Job(tmp_path / "2", tmp_path, 1, 1, *ENDLESS, workers, start_new_session=True)
    job.wait_for_line("compiling the first step; the last start took")
    os.killpg(job.processes[0].pid, signal.SIGINT)
    job.wait_for_line(FIRST)
    os.killpg(job.processes[0].pid, signal.SIGINT)
    assert job.wait(60) == [cluster.EXIT_INTERRUPTED], job.output()
    output = job.output()
    assert quiet(output) and "Ctrl-C again: ended at once, nothing more is saved" in output
    assert f"at step {stopped}" in output and Checkpoints(tmp_path).steps() == [stopped]


@pytest.mark.thorough
def test_all_processes_stop_with_the_one_that_is_interrupted(tmp_path):
    job = Job(tmp_path / "logs", tmp_path, 2, 1, *ENDLESS)
    job.wait_for_step(tmp_path, 1)
    job.processes[1].send_signal(signal.SIGINT)
    assert job.wait(200) == [cluster.EXIT_INTERRUPTED] * 2, job.output()
    assert quiet(job.output()) and FIRST in job.output(1) and FIRST not in job.output(0)
    stopped = int(re.search(r"Ctrl-C: stopped after step (\d+)", job.output(0))[1])
    assert Checkpoints(tmp_path).steps() == [stopped]


AGREE = """
import os, signal, sys, time
import jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from unitok_jax.runtime import processes
preemption, asked = processes.Preemption(), 0
processes.everyone(True)
if sys.argv[2] == "1":
    os.kill(os.getpid(), signal.SIGINT)
while not preemption.requested():
    asked += 1
    assert asked < 6000, "no notice"
    time.sleep(0.01)
print("stopped", asked, preemption.interrupted())
"""


def test_processes_agree_where_to_stop_and_why():
    address = f"127.0.0.1:{free_port()}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", AGREE, address, str(number)],
            env=environment(1),
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    told = [process.communicate(timeout=200)[0].splitlines()[-1] for process in processes]
    assert told[0] == told[1] and re.fullmatch(r"stopped \d+ True", told[0])


def test_a_process_that_waits_for_others_ends_at_once(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    flags = f"--coordinator={address}", "--processes=2", "--process=0"
    job = Job(tmp_path / "logs", tmp_path, 1, 1, *flags)
    deadline = time.monotonic() + 200
    while True:
        try:
            socket.create_connection(("127.0.0.1", int(address.split(":")[1])), 1).close()
            break
        except OSError:
            assert time.monotonic() < deadline, job.output()
            time.sleep(0.1)
    job.processes[0].send_signal(signal.SIGINT)
    assert job.wait(60) == [-signal.SIGINT], job.output()
    assert quiet(job.output())


def test_what_a_background_process_ignores_stays_ignored():
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from unitok_jax.runtime import processes\n"
        "preemption = processes.Preemption(); signal.raise_signal(signal.SIGINT)\n"
        "assert not preemption.requested(); preemption.close()\n"
        "assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
