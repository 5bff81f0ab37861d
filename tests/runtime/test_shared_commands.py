"""Commands that several real processes share: signals to one of them, and what one cannot read."""

import shutil
import signal

import pytest

from helpers.jobs import Job
from helpers.tokenized import make_images
from unitok_jax.weights import load

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.processes]


def shared(logs, command, *arguments, each=()):
    """`unitok COMMAND` in two processes."""
    given = [command, *map(str, arguments)]
    return Job(logs, None, 2, 1, settings=given, each=each, program="unitok_jax")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """More pictures than two processes tokenize while a test lasts."""
    return make_images(tmp_path_factory.mktemp("many") / "in", 4000, (20, 20))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_to_one_ends_all(many, weights, tmp_path, number):
    """The one at once, and the other when it hears nothing more of it; both would work for long."""
    output = tmp_path / "out"
    given = f"--checkpoint={weights}", f"--data=folder:{many}", f"--output={output}"
    job = shared(tmp_path / "logs", "tokenize", *given, "--shard_size=10", "--num_threads=1")
    job.wait_until(lambda: len(list(output.glob("0*.json"))) >= 2, "two shards", 200)
    job.processes[1].send_signal(number)
    first = job.processes[1].wait(timeout=60)
    codes = job.wait(120)
    assert first == (-number if number == signal.SIGTERM else 130), job.output()
    assert codes[0] not in (0, None), job.output()
    assert len(list(output.glob("0*.json"))) < 400


def test_a_checkpoint_that_one_cannot_read(weights, tmp_path):
    """Its reason is told, and both end by it."""
    images, models = make_images(tmp_path / "in", 8), [tmp_path / name for name in ("a", "b")]
    load.write(models[0], *load.read(weights))
    given = f"--data=folder:{images}", f"--output={tmp_path / 'card'}", "--no_text"
    each = [[f"--checkpoint={model}"] for model in models]
    job = shared(tmp_path / "logs", "evaluate", *given, each=each)
    assert job.wait(200) == [2, 2], job.output()
    told = [job.output(process) for process in range(2)]
    assert "process 1: " in told[0] and all(str(models[1]) in text for text in told), told
    shutil.copytree(*models)
    job = shared(tmp_path / "again", "evaluate", *given, each=each)
    assert job.wait(300) == [0, 0], job.output()
