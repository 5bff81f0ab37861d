"""A run on images that keep their aspect ratio: one program a bucket, killed between two."""

import io
import json
import shutil

import jax
import msgpack
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from configs import tiny
from unitok_jax.checkpoints import manager
from unitok_jax.data.formats import array_records
from unitok_jax.data.images.transforms import upright_shape
from unitok_jax.tokenizer.run import Run
from unitok_jax.training import loop

pytestmark = [pytest.mark.slow, pytest.mark.long]

STEPS, BATCH = 6, 4
SIZES = {"64x32": 8, "48x48": 9, "32x64": 8}


def png(shape, index):
    file, rng = io.BytesIO(), np.random.default_rng(index)
    Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def packed(folder):
    """A folder as `unitok data pack` writes it, of images of three shapes in turn."""
    shapes = [(80, 40)] * 8 + [(50, 48)] * 9 + [(33, 64)] * 8
    images = [png(shapes[index], index) for index in np.random.default_rng(0).permutation(25)]
    path = folder / "000000.array_record"
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for index, image in enumerate(images):
        record = {"name": f"{index}.png", "image": image, "captions": [f"picture {index}"]}
        writer.write(msgpack.packb(record))
    writer.close()
    shard = {"file": path.name, "count": len(images), "bytes": path.stat().st_size}
    content = {"format": array_records.FORMAT, "version": 1, "shards": [shard]}
    (folder / "manifest.json").write_text(json.dumps(content))
    found = np.array([upright_shape(image) for image in images], "<i4")
    (folder / array_records.SHAPES).write_bytes(found.tobytes())
    return folder


def configuration(data):
    config = tiny.get_config()
    config.steps = STEPS
    config.model.size, config.model.quant_heads, config.model.text.layers = "nano", 2, 1
    config.data.source, config.data.path = "array_record", str(data)
    config.data.image_size, config.data.bucket_ratio = (48, 48), 2.0
    config.data.batch_size, config.data.num_threads = BATCH, 1
    config.eval.every, config.eval.batch_size, config.eval.max_images = STEPS, 4, 4
    config.eval.grid_images = 2
    config.checkpoint.every, config.checkpoint.keep_latest = 1, STEPS
    config.log.every, config.log.tensorboard = 1, False
    return config


class Watched(Run):
    """A Run on one device that keeps its batches; every start uses its compiled steps."""

    def __init__(self, data):
        super().__init__(configuration(data), jax.devices()[:1])
        self.seen, self.pictured = [], []

    def train_step(self, step, state, batch):
        self.seen.append(jax.device_get(batch))
        return super().train_step(step, state, batch)

    def evaluate(self, state):
        metrics, picture = super().evaluate(state)
        self.pictured.append(picture.shape)
        return metrics, picture

    def train(self, workdir):
        """The batches of one start."""
        self.seen = []
        loop.train(lambda config: self, self.config, str(workdir))
        return self.seen


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(workdir, Run, batches) of an undisturbed run."""
    data, workdir = packed(tmp_path_factory.mktemp("data")), tmp_path_factory.mktemp("whole")
    run = Watched(data)
    return workdir, run, run.train(workdir)


def sides(batches):
    return [batch["image"].shape[1:3] for batch in batches]


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def saved(workdir, run, step=STEPS):
    with manager.Checkpoints(workdir) as checkpoints:
        return jax.device_get(checkpoints.restore(run.programs.abstract.items(), step=step))


def test_every_step_is_of_its_bucket_and_the_evaluation_of_the_square(finished):
    workdir, run, batches = finished
    assert run.buckets.facts() == run.facts["images in the buckets"] == SIZES
    assert sides(batches) == [run.buckets.size_of(step) for step in range(STEPS)]
    assert set(sides(batches)) == {(64, 32), (48, 48), (32, 64)}
    gap = 4
    assert run.pictured == [(2 * (48 + gap), 3 * (48 + gap), 3)]
    training = [record for record in records(workdir) if "loss" in record]
    assert [record["skipped"] for record in training] == [0] * STEPS
    assert all(np.isfinite(record["loss"]) for record in training)


def test_a_program_for_each_bucket(finished):
    _, run, _ = finished
    assert run.programs.phases[False]._cache_size() == len(SIZES)


@pytest.mark.parametrize("done", [1, 4])
def test_resuming_changes_nothing(finished, tmp_path, done):
    workdir, run, batches = finished
    copy = shutil.copytree(workdir, tmp_path / "copy")
    for step in range(done + 1, STEPS + 1):
        shutil.rmtree(copy / "checkpoints" / str(step))
    for ours, theirs in zip(run.train(copy), batches[done:], strict=True):
        np.testing.assert_array_equal(ours["image"], theirs["image"])
    again, whole = (saved(folder, run) for folder in (copy, workdir))
    for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert records(copy) == records(workdir)


def test_other_buckets_are_refused(finished, tmp_path):
    """A run would go on with other batches."""
    workdir, run, _ = finished
    copy = shutil.copytree(workdir, tmp_path / "copy")
    other = run.config.copy_and_resolve_references()
    other.data.bucket_ratio = 3.0
    with manager.Checkpoints(copy) as checkpoints:
        with pytest.raises(ValueError, match=r"data\.bucket_ratio: saved 2\.0, now 3\.0"):
            checkpoints.restore(run.abstract.items(), other, run.facts)
        facts = run.facts | {"images in the buckets": SIZES | {"48x48": 8}}
        with pytest.raises(ValueError, match="images in the buckets: 48x48: saved 9, now 8"):
            checkpoints.restore(run.abstract.items(), run.config, facts)


def test_a_step_is_that_of_a_run_of_its_size(finished):
    """The metrics and weights of a tall batch, by the step of a run without buckets."""
    workdir, run, batches = finished
    step = next(step for step, side in enumerate(sides(batches)) if step and side != (48, 48))
    config = run.config.copy_and_resolve_references()
    config.data.image_size, config.data.bucket_ratio = sides(batches)[step], 0.0
    plain = Run(config, jax.devices()[:1])
    state = plain.state_from(saved(workdir, run, step))
    after, metrics = plain.train_step(step, state, batches[step])
    whole = saved(workdir, run, step + 1)["params"]
    for ours, theirs in zip(jax.tree.leaves(after.params), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)
    record = next(each for each in records(workdir) if each["step"] == step + 1 and "loss" in each)
    assert float(metrics["loss"]) == pytest.approx(record["loss"], rel=1e-5)
