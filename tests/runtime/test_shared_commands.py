"""Commands that several real processes share: signals to one of them, and what one cannot read."""

import shutil
import signal
import subprocess
import sys
import time

import pytest

from helpers.jobs import environment, free_port
from helpers.tokenized import ROOT, make_images
from unitok_jax.weights import load

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.processes]


class Shared:
    """`unitok COMMAND` in two processes, whose output goes to files."""

    def __init__(self, logs, command, *arguments, folders=(ROOT, ROOT)):
        logs.mkdir()
        self.logs = [logs / f"{process}.log" for process in range(2)]
        to = f"--coordinator=127.0.0.1:{free_port()}", "--processes=2"
        given = [sys.executable, "-m", "unitok_jax", command, *map(str, arguments), *to]
        self.processes = [
            subprocess.Popen(
                [*given, f"--process={process}"],
                cwd=folder,
                env=environment(1) | {"PYTHONPATH": str(ROOT)},
                stdout=log.open("w"),
                stderr=subprocess.STDOUT,
            )
            for process, (log, folder) in enumerate(zip(self.logs, folders, strict=True))
        ]

    def wait_until(self, happens, timeout=200):
        deadline = time.monotonic() + timeout
        while not happens():
            assert time.monotonic() < deadline and self.codes() == [None, None], self.output()
            time.sleep(0.05)

    def codes(self):
        return [process.poll() for process in self.processes]

    def end(self, timeout):
        """The exit codes after so many seconds; who is left is killed."""
        deadline = time.monotonic() + timeout
        while None in self.codes() and time.monotonic() < deadline:
            time.sleep(0.1)
        codes = self.codes()
        for process in self.processes:
            process.kill()
            process.wait()
        return codes

    def output(self):
        return "\n".join(log.read_text() for log in self.logs)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """More pictures than two processes tokenize while a test lasts."""
    return make_images(tmp_path_factory.mktemp("many") / "in", 4000, (20, 20))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_to_one_ends_all(many, weights, tmp_path, number):
    """The one at once, and the other when it hears nothing more of it; both would work for long."""
    output = tmp_path / "out"
    given = f"--checkpoint={weights}", f"--data=folder:{many}", f"--output={output}"
    job = Shared(tmp_path / "logs", "tokenize", *given, "--shard_size=10", "--num_threads=1")
    job.wait_until(lambda: len(list(output.glob("0*.json"))) >= 2)
    job.processes[1].send_signal(number)
    first = job.processes[1].wait(timeout=60)
    codes = job.end(120)
    assert first == (-number if number == signal.SIGTERM else 130), job.output()
    assert codes[0] not in (0, None), job.output()
    assert len(list(output.glob("0*.json"))) < 400


def test_a_checkpoint_that_one_cannot_read(weights, tmp_path):
    """Its reason is told, and both end by it."""
    images = make_images(tmp_path / "in", 8)
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    load.write(tmp_path / "here" / "model", *load.read(weights))
    folders = tmp_path / "here", tmp_path / "there"
    given = "--checkpoint=model", f"--data=folder:{images}", f"--output={tmp_path / 'card'}"
    job = Shared(tmp_path / "logs", "evaluate", *given, "--no_text", folders=folders)
    assert job.end(200) == [2, 2], job.output()
    told = [log.read_text() for log in job.logs]
    assert "process 1: " in told[0] and all("model" in text for text in told), told
    shutil.copytree(tmp_path / "here" / "model", tmp_path / "there" / "model")
    job = Shared(tmp_path / "again", "evaluate", *given, "--no_text", folders=folders)
    assert job.end(300) == [0, 0], job.output()
