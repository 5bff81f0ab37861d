"""Runs with a teacher: exact resuming, and what a run that resumes must agree on."""

import json
import shutil

import pytest

from helpers import one_device, teacher_files
from unitok_jax.checkpoints import differences, manager
from unitok_jax.tokenizer.run import Run
from unitok_jax.training import loop
from unitok_jax.weights import initialize

pytestmark = [pytest.mark.slow, pytest.mark.long]

STEPS = 4


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        teacher_files.install(patch)
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    arrays = teacher_files.clip_of_captions()
    return teacher_files.write(folder / "model.safetensors", arrays)


def configuration(weights):
    from configs import tiny

    config = tiny.get_config()
    config.steps = STEPS
    config.model.size, config.model.quant_heads = "nano", 2
    config.data.image_size = (48, 48)
    config.data.batch_size = 4
    config.data.num_threads = 1
    config.loss.teacher_token = config.loss.teacher_relation = 0.5
    config.teacher.kind, config.frozen.teacher = "small_clip", str(weights)
    config.eval.every, config.eval.batch_size, config.eval.max_images = STEPS, 4, 4
    config.eval.grid_images = 2
    config.checkpoint.every = 2
    config.log.every = 1
    return config


OneDevice = one_device.of(Run)


@pytest.fixture(scope="module")
def whole(weights, tmp_path_factory):
    """The workdir of an undisturbed run."""
    workdir = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        teacher_files.install_clip(patch)
        loop.train(OneDevice, configuration(weights), str(workdir))
        yield workdir


def digests(workdir):
    with manager.Checkpoints(workdir) as checkpoints:
        return checkpoints.meta(STEPS)["digests"]


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def half(whole, tmp_path):
    """The same run after its second step."""
    workdir = shutil.copytree(whole, tmp_path / "half")
    shutil.rmtree(workdir / "checkpoints" / str(STEPS))
    return workdir


def test_resuming_changes_nothing(whole, half, weights):
    loop.train(OneDevice, configuration(weights), str(half))
    assert digests(half) == digests(whole)
    assert any("teacher_heads" in name for name in digests(whole)["training"])
    assert records(half) == records(whole)
    training = [record for record in records(whole) if "loss" in record]
    assert all(record["loss/teacher_token"] > 0 for record in training)
    assert all(record["loss/teacher_relation"] > 0 for record in training)


def test_another_file_of_the_teacher_is_refused(half, weights, tmp_path):
    arrays = teacher_files.clip_of_open_clip()
    other = teacher_files.write(
        tmp_path / "other.safetensors",
        {name: array + 0.1 for name, array in arrays.items() if name.startswith("visual.")},
    )
    config = configuration(other)
    config.loss.teacher_relation = 0.0
    with pytest.raises(manager.CheckpointError, match=r"digest of frozen\.teacher: saved"):
        loop.train(OneDevice, config, str(half))


def test_a_relation_comes_and_goes_beside_heads(weights, monkeypatch):
    """Facts are of the tokens' side of a file; all processes have the same of both sides."""
    teacher_files.install_clip(monkeypatch)
    facts, shared = [], []
    for weight in (0.5, 0.0):
        config = configuration(weights)
        config.loss.teacher_relation = weight
        run = OneDevice(config)
        facts.append(run.facts)
        shared.append(run.shared)
    assert "digest of frozen.teacher" in facts[0]
    assert facts[0] == facts[1]
    assert shared[0] != shared[1]


class TestWhatMustAgree:
    def changed(self, **teacher):
        before, now = (configuration("a").to_dict() for _ in range(2))
        before["loss"]["teacher_token"] = teacher.pop("saved", 0.5)
        now["teacher"].update(teacher)
        return differences.config_differences(before, now), initialize.training_differences(
            before, now
        )

    def test_the_heads(self):
        resumed, taken = self.changed(saved=0.0)
        assert resumed == taken == ["loss.teacher_token: saved 0.0, now 0.5"]

    def test_the_kind_and_the_shallow_block(self):
        """The kind too: of two that differ in their GELU alone a file's digest is the same."""
        resumed, taken = self.changed(kind="dinov2_b14", shallow=3)
        kind, shallow = "teacher.kind: saved 'small_clip', now 'dinov2_b14'", "teacher.shallow: "
        assert resumed == taken == [kind, shallow + "saved 0, now 3"]
        resumed, _ = self.changed(saved=0.0, kind="dinov2_b14")
        assert resumed == ["loss.teacher_token: saved 0.0, now 0.5"]

    def test_a_shallow_block_without_heads_may_change(self):
        """Of a relation nothing depends on it; with heads from now on, they are what is told."""
        before, now = (configuration("a").to_dict() for _ in range(2))
        before["loss"]["teacher_token"] = now["loss"]["teacher_token"] = 0.0
        now["teacher"]["shallow"] = 3
        assert differences.config_differences(before, now) == []
        assert initialize.training_differences(before, now) == []
        now["loss"]["teacher_token"] = 0.5
        assert differences.config_differences(before, now) == [
            "loss.teacher_token: saved 0.0, now 0.5"
        ]

    def test_a_temperature_and_a_weight_may_change(self):
        assert self.changed(temperature=4.0, saved=0.7) == ([], [])

    def test_a_checkpoint_from_before_there_were_teachers(self):
        from configs import tiny

        now, before = (tiny.get_config().to_dict() for _ in range(2))
        del before["teacher"], before["frozen"]["teacher"]
        del before["loss"]["teacher_token"], before["loss"]["teacher_relation"]
        assert differences.config_differences(before, now) == []
        assert initialize.training_differences(before, now) == []
        now["loss"]["teacher_token"] = 1.0
        assert differences.config_differences(before, now) == [
            "loss.teacher_token: saved None, now 1.0"
        ]
        assert initialize.training_differences(before, now) == [
            "loss.teacher_token: saved 0.0, now 1.0"
        ]
