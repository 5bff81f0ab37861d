"""The torture test in short: benchmarks/torture.py at length."""

import random
import shutil

import pytest

from benchmarks import mishaps, numbered, torture
from benchmarks.victim import Victim, alive, arrays, compare

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.processes]

STEPS = 16
# Without LPIPS and the adversary, which take most of a start; with an average, for its own arrays.
SETTINGS = [
    s.replace("tiny_full", "tiny").replace("steps=24", f"steps={STEPS}")
    for s in torture.SETTINGS
    if ".gan." not in s
] + ["--config.optim.ema_decay=0.9", "--config.model.text.layers=1"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    target = Victim(tmp_path_factory.mktemp("torture") / "undisturbed", SETTINGS)
    life = torture.live(target, "none", random.Random(0))
    assert (life.hit, life.begin, life.end) == ("finished", 0, STEPS)
    return target


@pytest.mark.thorough
def test_kills_change_nothing(undisturbed, tmp_path):
    target, chance = Victim(tmp_path / "run", SETTINGS), random.Random(0)
    lives = [
        torture.live(target, aim, chance, delay=0.1)
        for aim in ("first step", "save", torture.WORKER, "none")
    ]
    assert [life.hit for life in lives][0] == "first step"
    assert [life.hit for life in lives][2:] == [torture.WORKER, "finished"]
    assert lives[-1].begin >= 4  # not from the start
    assert not compare(undisturbed.workdir, target.workdir, STEPS)
    assert not torture.samples(lives, undisturbed)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["disk", "preemption"])
def test_mishaps_change_nothing(undisturbed, tmp_path, name):
    problems = mishaps.SCENARIOS[name](tmp_path / name, SETTINGS, undisturbed)
    if problems is None:
        pytest.skip("no right to mount a file system")
    assert not problems, "\n".join(problems)


def test_the_comparison_sees_what_differs(undisturbed, tmp_path):
    other = shutil.copytree(undisturbed.workdir, tmp_path / "other")
    assert not compare(undisturbed.workdir, other, STEPS)
    assert len(arrays(other, STEPS)) > 100
    records = (other / "metrics.jsonl").read_text()
    (other / "metrics.jsonl").write_text(records.replace("grad_norm", "norm", 1))
    shutil.rmtree(other / "checkpoints" / f"{STEPS}")
    shutil.copytree(other / "checkpoints" / f"{STEPS - 4}", other / "checkpoints" / f"{STEPS}")
    problems = "\n".join(compare(undisturbed.workdir, other, STEPS))
    assert "record 1 differs" in problems and "params.logit_scale differs" in problems


def test_batches_that_are_lost_or_others_are_seen(undisturbed):
    stream = undisturbed.reads()
    assert sorted(stream) == list(range(1, STEPS + 1)) and len(set(stream.values())) == STEPS

    def told(*lives):
        return torture.samples([torture.Life(1, "none", **life) for life in lives], undisturbed)

    def reads(*steps, late=0):
        return {step: stream[step + late] for step in steps}

    whole = {"begin": 4, "end": STEPS, "reads": reads(*range(5, STEPS + 1))}
    assert not told({"end": 4, "reads": reads(1, 2, 3, 4, 5)}, whole)
    assert told({"end": 3, "reads": reads(1, 2, 3)}, whole) == ["steps without data: [4]"]
    late = {"end": 4, "reads": reads(1, 2) | reads(3, 4, late=1)}
    assert told(late, whole) == ["process 1 read another batch for steps [3, 4]"]
    assert told({"end": 4, "reads": reads(1, 2, 3)}, {"reads": stream}) == [
        "process 1 read no batch for steps [4]"
    ]


def test_every_sample_comes_once_in_an_epoch():
    epoch = numbered.count()
    first, second = numbered.read(0, 8, 4), numbered.read(4, 8, 4)
    assert [first[step] for step in range(5, 9)] == list(second.values())
    assert sorted(sum(first.values(), [])[:epoch]) == list(range(epoch))


def test_a_process_that_is_gone_is_not_alive(undisturbed):
    assert undisturbed.process.poll() == 0 and not alive(undisturbed.process.pid)
