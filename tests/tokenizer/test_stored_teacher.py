"""Runs on a teacher's stored features: the same losses, no teacher in a step, and no other one."""

import functools
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from configs import tiny
from helpers import jaxprs, one_device, teacher_files
from helpers.jobs import environment
from helpers.tokenized import ROOT, hashes, kill_when, shards
from unitok_jax.checkpoints.manager import Checkpoints
from unitok_jax.commands import data_teacher
from unitok_jax.tokenizer.plan import batch_shapes, plan
from unitok_jax.tokenizer.run import Run
from unitok_jax.tokenizer.step import TokenizerSteps
from unitok_jax.training import loop

pytestmark = [pytest.mark.slow, pytest.mark.long]

# `unitok data teacher` that knows a teacher smaller than the public ones
SMALL_COMMAND = """
import sys
sys.path.insert(0, "tests")
import pytest
from helpers import teacher_files
from unitok_jax.commands import data_teacher
with pytest.MonkeyPatch.context() as patch:
    teacher_files.install(patch)
    data_teacher.main()
"""
WIDTH = 40  # inside the teacher's blocks: no other part has arrays of this size


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        teacher_files.install_clip(patch, hidden=WIDTH)
        yield


def configuration(folder, **changes):
    """Eight pictures of 32 px, and a random teacher; `room__key` changes a key."""
    config = tiny.get_config()
    config.steps = 4
    config.model.size, config.model.quant_heads = "nano", 2
    config.model.drop_path = 0.0
    config.data.source, config.data.path = "folder", str(folder / "images")
    config.data.image_size, config.data.batch_size = (32, 32), 4
    config.data.crop_scale = config.data.crop_ratio = (1.0, 1.0)
    config.data.num_threads = 1
    config.loss.l1 = config.loss.l2 = 0.0  # no decoder to compile
    config.loss.teacher_token, config.loss.teacher_relation = 0.5, 0.25
    config.teacher.kind, config.teacher.shallow = "small_clip", 1
    config.frozen.teacher = "seeded"
    config.eval.batch_size = config.eval.max_images = 8
    config.eval.every, config.eval.grid_images = 4, 2
    config.checkpoint.every, config.log.every = 2, 1
    config.log.tensorboard = False
    for key, value in changes.items():
        room, leaf = key.split("__")
        config[room][leaf] = value
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Captioned pictures, and what the teacher says of them."""
    folder, rng = tmp_path_factory.mktemp("stored"), np.random.default_rng(0)
    (folder / "images").mkdir()
    for index in range(8):
        pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        (folder / "images" / f"{index}.txt").write_text(f"number {index}\na picture {index}")
    data_teacher.store(configuration(folder), folder / "features", shard_size=3)
    return folder


def stored(folder, **changes):
    given = {"teacher__features": str(folder / "features"), "frozen__teacher": ""}
    return configuration(folder, **{**given, **changes})


OneDevice = one_device.of(Run)


class TestStep:
    def test_losses_are_those_with_the_teacher_in_the_step(self, folder):
        """To the rounding of tokens to float16."""
        found = []
        for config in (configuration(folder), stored(folder)):
            run = OneDevice(config)
            assert ("teacher" in run.frozen) == (not config.teacher.features)
            found.append(run.train_step(0, run.initial_state(), next(run.batches(0)))[1])
        for name in ("loss/teacher_token", "loss/teacher_relation", "loss", "grad_norm"):
            assert float(found[1][name]) == pytest.approx(float(found[0][name]), rel=2e-4), name

    def test_a_step_computes_no_teacher(self, folder):
        """No product has a side of the width inside its blocks; with a teacher there are such."""
        found = {}
        for name, config in {"teacher": configuration(folder), "stored": stored(folder)}.items():
            steps = TokenizerSteps(config)
            step = functools.partial(steps.train_step, adversarial=False, gather=lambda x: x)
            shapes = batch_shapes(config, config.data.image_size, steps.teaching)
            networks = steps.abstract_networks()
            traced = jax.make_jaxpr(step)(jax.eval_shape(steps.init), networks, shapes)
            sides = {n for pair in jaxprs.products(traced) for shape in pair for n in shape}
            found[name] = WIDTH in sides, "teacher" in networks
        assert found == {"teacher": (True, True), "stored": (False, False)}


def test_a_plan_needs_no_folder(folder):
    config = stored(folder, teacher__features="what is not there yet")
    [phase] = plan(config, jax.devices()[:2]).phases
    shapes = {name: (x.shape, x.dtype) for name, x in phase.batch.items() if "teacher" in name}
    tokens = (4, 4, teacher_files.WIDTH), np.float16
    vectors = (4, teacher_files.TEXT.embed_dim), np.float32
    assert shapes == {
        "teacher_deep": tokens,
        "teacher_shallow": tokens,
        "teacher_image": vectors,
        "teacher_text": vectors,
    }


class TestRefusals:
    @pytest.mark.parametrize(
        "changes, told",
        [
            ({"data__crop_scale": (0.9, 1.0)}, r"data.crop_scale=\(0.9, 1.0\) shows .*=\(1, 1\)"),
            ({"data__crop_ratio": (0.75, 1.0)}, r"data.crop_ratio=\(0.75, 1.0\) shows .*=\(1, 1\)"),
            ({"data__size_schedule": ((0, 16), (0.5, 32))}, "data.size_schedule=.*several; set"),
            (
                {"data__source": "array_record", "data__bucket_ratio": 2.0},
                "data.bucket_ratio=2.0 trains on several; set data.bucket_ratio=0",
            ),
            (
                {"loss__teacher_token": 0.0, "loss__teacher_relation": 0.0},
                "no loss takes a teacher's features .*set one of the weights",
            ),
        ],
    )
    def test_by_a_run_and_by_the_command(self, folder, tmp_path, changes, told):
        with pytest.raises(ValueError, match=f"^teacher.features=.*features.*{told}"):
            Run(stored(folder, **changes), jax.devices()[:1])
        with pytest.raises(ValueError, match=f"^--output=.*out.*{told}"):
            data_teacher.store(configuration(folder, **changes), tmp_path / "out")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        "changes, told",
        [
            (
                {"teacher__kind": "small_dinov2", "loss__teacher_relation": 0.0},
                "teacher.kind=small_",
            ),
            ({"teacher__shallow": 2}, "teacher.shallow=1, and teacher.shallow=2"),
            ({"data__image_size": (48, 48)}, r"size=\[32, 32\], and data.image_size=\[48, 48\]"),
        ],
    )
    def test_of_another_kind(self, folder, changes, told):
        with pytest.raises(ValueError, match=f"^teacher.features=.*was made with .*{told}"):
            Run(stored(folder, **changes), jax.devices()[:1])

    def test_another_file_of_the_teacher(self, folder, tmp_path):
        with pytest.MonkeyPatch.context() as patch:
            teacher_files.install_clip(patch)  # of the file's own width
            arrays = teacher_files.clip_of_captions()
            path = teacher_files.write(tmp_path / "other.safetensors", arrays)
            with pytest.raises(ValueError, match="another file of the teacher than frozen.teacher"):
                Run(stored(folder, frozen__teacher=str(path)), jax.devices()[:1])
        Run(stored(folder, frozen__teacher="seeded"), jax.devices()[:1])


def digests(workdir):
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.meta(4)["digests"]


def test_a_run_resumes_exactly_and_goes_on_with_the_teacher_itself(folder, tmp_path):
    """The heads are bound to the teacher, not to where its features come from."""
    whole, half = tmp_path / "whole", tmp_path / "half"
    loop.train(OneDevice, stored(folder), str(whole))
    config = stored(folder)
    loop.train(OneDevice, config, str(half))
    removed = half / "checkpoints" / "4"
    for path in sorted(removed.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    removed.rmdir()
    loop.train(OneDevice, config, str(half))
    assert digests(half) == digests(whole)
    assert OneDevice(config).facts == OneDevice(configuration(folder)).facts


def test_the_command_is_killed_and_continued(folder, tmp_path):
    """Bit for bit the folder of a command that nobody killed."""
    output, whole = tmp_path / "out", tmp_path / "whole"
    command = [sys.executable, "-c", SMALL_COMMAND]
    options = dict(cwd=ROOT, env=environment(1), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    given = [
        *("--config=configs/tiny.py", "--config.data.source=folder", "--config.data.num_threads=1"),
        *(f"--config.data.path={folder}/images", "--config.data.image_size=(32,32)"),
        *("--config.data.crop_scale=(1.,1.)", "--config.data.crop_ratio=(1.,1.)"),
        *("--config.loss.teacher_token=1.0", "--config.frozen.teacher=seeded"),
        "--config.teacher.kind=small_clip",
        *("--shard_size=1", "--batch_size=1"),
    ]
    process = subprocess.Popen([*command, *given, f"--output={output}"], **options)
    assert kill_when(process, lambda: len(shards(output)) > 1, timeout=400)
    assert 2 <= len(shards(output)) and not (output / "manifest.json").exists()
    for place in (output, whole):
        done = subprocess.run([*command, *given, f"--output={place}"], **options)
        assert done.returncode == 0, done.stderr
    assert done.stdout == f"features of a teacher of 8 samples in 8 files in {whole}\n".encode()
    assert hashes(output) == hashes(whole)
