"""Checkpoints: what is kept, what is refused, and damage that is seen."""

import errno
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from configs import default, generate, multimodal, tiny
from helpers import mounts
from helpers.jobs import free_port
from helpers.saves import items, save
from unitok_jax.checkpoints import differences, manager, reader
from unitok_jax.checkpoints.manager import CheckpointError, Checkpoints
from unitok_jax.runtime import processes, sharding, workdir
from unitok_jax.tokenizer.config_checks import check
from unitok_jax.weights import load

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
PRODUCTS = (default, generate, multimodal)  # all keys of each


@pytest.fixture
def config():
    return tiny.get_config()


def target(tree):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)


def test_round_trip(tmp_path, config):
    save(tmp_path, config, [5])
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore(target(items(5)), config)
        meta = checkpoints.meta()
    jax.tree.map(np.testing.assert_array_equal, found, items(5))
    assert meta["step"] == meta["data_position"] == 5
    assert meta["config"]["model"]["size"] == "tiny"


def test_latest_and_best_are_kept(tmp_path, config):
    config.checkpoint.keep_latest, config.checkpoint.keep_best = 2, 1
    psnr = {1: 10.0, 2: 30.0, 3: 20.0, 4: 15.0, 5: 12.0}
    save(tmp_path, config, psnr, psnr)
    assert {int(p.name) for p in (tmp_path / "checkpoints").iterdir()} == {2, 4, 5}


def test_params_alone_can_be_read(tmp_path, config):
    save(tmp_path, config, [5])
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore({"params": target(items(5)["params"])})
    assert found.keys() == {"params"}


class TestRefused:
    def test_empty_folder(self, tmp_path):
        (tmp_path / "checkpoints").mkdir()
        with Checkpoints(tmp_path) as checkpoints:
            assert checkpoints.latest_step() is None
            with pytest.raises(CheckpointError, match="no complete checkpoint"):
                checkpoints.meta()

    def test_a_step_that_is_not_there(self, tmp_path, config):
        save(tmp_path, config, [5, 6])
        with Checkpoints(tmp_path) as checkpoints:
            with pytest.raises(CheckpointError, match="checkpoint 4; it has: 5, 6"):
                checkpoints.meta(4)

    def test_every_difference_is_listed(self, tmp_path, config):
        save(tmp_path, config, [5])
        wanted = target(items(5, width=8))
        wanted["params"]["b"] = target(jnp.zeros(2))
        del wanted["training"]["generator"]["m"]
        with Checkpoints(tmp_path) as checkpoints:
            with pytest.raises(CheckpointError) as error:
                checkpoints.restore(wanted)
        for line in (
            "shape: a.kernel is (3, 4), the model has (3, 8)",
            "missing: b (2,)",
            "unknown: generator.m (5,)",
        ):
            assert line in str(error.value)

    def test_configuration(self, tmp_path, config, caplog):
        save(tmp_path, config, [5])
        config.model.num_codebooks = 8
        config.data.batch_size = 32
        config.optim.learning_rate = 1.0
        with Checkpoints(tmp_path) as checkpoints:
            with pytest.raises(CheckpointError) as error, caplog.at_level("INFO"):
                checkpoints.restore(target(items(5)), config)
        assert "model.num_codebooks: saved 4, now 8" in str(error.value)
        assert "data.batch_size: saved 16, now 32" in str(error.value)
        assert "learning_rate" not in str(error.value)
        assert "optim.learning_rate: saved 0.002, now 1.0" in caplog.text

    def test_older_step_than_the_newest(self, tmp_path, config):
        save(tmp_path, config, [5])
        with Checkpoints(tmp_path, config.checkpoint, create=True) as checkpoints:
            with pytest.raises(CheckpointError, match="already holds step 5"):
                checkpoints.save(4, items(4), config, {})

    def test_changed_bytes(self, tmp_path, config):
        """Orbax has no checksums; a digest that does not fit the arrays must be seen."""
        save(tmp_path, config, [5])
        (meta,) = (tmp_path / "checkpoints" / "5" / "meta").glob("metadata")
        content = json.loads(meta.read_text())
        content["digests"]["params"]["a.kernel"] += 1
        meta.write_text(json.dumps(content))
        with Checkpoints(tmp_path) as checkpoints:
            with pytest.raises(CheckpointError, match="do not have the bytes.*\n.*a.kernel"):
                checkpoints.restore(target(items(5)))


BYTES = 1000 * 300 * 4  # of `large_items`


def large_items(step):
    """Arrays that do not compress, so that their data lies in files of its own."""
    key = jax.random.key(step)
    return {
        "params": {"a": {"kernel": jax.random.normal(key, (1000, 300))}, "b": jnp.ones(3)},
        "training": {"step": jnp.int32(step), "generator": {"m": jnp.ones(5)}},
    }


def data_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(folder, parts=2):
    path = data_file(folder)
    os.truncate(path, path.stat().st_size // parts)


def zero(folder):
    path = data_file(folder)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(4096))


def change_digest(folder):
    """What zeroed bytes do where nothing is compressed: Orbax restores without an error."""
    path = folder / "meta" / "metadata"
    content = json.loads(path.read_text())
    content["digests"]["params"]["a.kernel"] += 1
    path.write_text(json.dumps(content))


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def half_deleted(folder):
    """Orbax deletes the files first, and the folders when all are gone."""
    for path in [p for p in sorted(folder.rglob("*")) if p.is_file()][::2]:
        path.unlink()


DAMAGES = {
    "truncated data": (truncate, "cannot be read"),
    "empty data": (lambda f: os.truncate(data_file(f), 0), "cannot be read"),
    "zeroed data": (zero, "cannot be read"),
    "no data": (lambda f: data_file(f).unlink(), "cannot be read"),
    "changed data": (change_digest, "do not have the bytes that were saved:\n  a.kernel"),
    "no manifest": (lambda f: (f / "params" / "manifest.ocdbt").unlink(), "NOT_FOUND"),
    "empty manifest": (lambda f: (f / "params" / "manifest.ocdbt").write_text(""), "DATA_LOSS"),
    "no index": (lambda f: shutil.rmtree(f / "params" / "d"), "NOT_FOUND"),
    "no item": (lambda f: shutil.rmtree(f / "training"), "lacks files of training"),
    "no names": (lambda f: (f / "params" / "_METADATA").unlink(), "lacks files of params"),
    "broken names": (lambda f: (f / "params" / "_METADATA").write_text('{"tr'), "cannot be read"),
    "no meta": (lambda f: shutil.rmtree(f / "meta"), "cannot be read"),
    "broken meta": (lambda f: (f / "meta" / "metadata").write_text('{"conf'), "cannot be read"),
    "empty meta": (lambda f: (f / "meta" / "metadata").write_text(""), "cannot be read"),
    "another meta": (lambda f: (f / "meta" / "metadata").write_text("[]"), "a JSON object"),
    "an empty folder": (empty, "cannot be read"),
    "a half-deleted folder": (half_deleted, "cannot be read|lacks files"),
}


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A workdir with the checkpoints 1, 2 and 3."""
    folder = tmp_path_factory.mktemp("three")
    config = tiny.get_config()
    config.checkpoint.keep_latest = 3
    with Checkpoints(folder, config.checkpoint, create=True) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, large_items(step), config, {})
    return folder


@pytest.fixture
def copy(three, tmp_path):
    return pathlib.Path(shutil.copytree(three, tmp_path / "copy"))


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


class TestDamage:
    @pytest.mark.parametrize("damage", DAMAGES)
    def test_the_one_before_is_used(self, copy, config, damage, caplog):
        hurt, reason = DAMAGES[damage]
        folder = copy / "checkpoints"
        hurt(folder / "3")
        with Checkpoints(copy) as checkpoints:
            equal(checkpoints.restore(target(large_items(0)), config), large_items(2))
            assert re.search("checkpoint 3 is damaged", caplog.text)
            assert re.search(reason, caplog.text), caplog.text
            assert checkpoints.meta()["step"] in (2, 3)
            with pytest.raises(CheckpointError, match=reason):
                checkpoints.restore(target(large_items(0)), config, step=3)
        assert (folder / "3").exists() and not (folder / "damaged").exists()  # only read

    def test_a_run_that_writes_moves_it_aside_and_saves_the_step_again(self, copy, config):
        folder = copy / "checkpoints"
        for _ in range(2):  # the second time there is a damaged one of that number already
            truncate(folder / "3")
            with Checkpoints(copy, config.checkpoint, create=True) as checkpoints:
                equal(checkpoints.restore(target(large_items(0)), config), large_items(2))
                assert checkpoints.latest_step() == 2
                checkpoints.save(3, large_items(3), config, {})
            with Checkpoints(copy) as checkpoints:
                equal(checkpoints.restore(target(large_items(0)), config), large_items(3))
        assert {p.name for p in (folder / "damaged").iterdir()} == {"3", "3.1"}

    def test_two_in_a_row(self, copy, config, caplog):
        truncate(copy / "checkpoints" / "3")
        empty(copy / "checkpoints" / "2")
        with Checkpoints(copy, config.checkpoint, create=True) as checkpoints:
            equal(checkpoints.restore(target(large_items(0)), config), large_items(1))
            assert checkpoints.steps() == [1]
        assert "checkpoint 3 is damaged" in caplog.text and "2 is damaged" in caplog.text

    def test_all_damaged_is_an_error_that_lists_them(self, copy, config):
        for step in (1, 2, 3):
            truncate(copy / "checkpoints" / str(step))
        with Checkpoints(copy, config.checkpoint, create=True) as checkpoints:
            with pytest.raises(CheckpointError) as error:
                checkpoints.restore(target(large_items(0)), config)
            assert checkpoints.steps() == [1, 2, 3]  # nothing was moved
        for part in ("/1 cannot", "/2 cannot", "/3 cannot", "another --workdir to start anew"):
            assert part in str(error.value)

    def test_what_does_not_fit_is_no_damage(self, copy, config, caplog):
        config.model.num_codebooks = 8
        with Checkpoints(copy, config.checkpoint, create=True) as checkpoints:
            with pytest.raises(CheckpointError, match="/3 was saved with another configuration"):
                checkpoints.restore(target(large_items(0)), config)
            other = target(large_items(0))
            other["params"]["b"] = target(jnp.zeros(7))
            with pytest.raises(CheckpointError, match="/3 does not fit the model"):
                checkpoints.restore(other)
        assert "damaged" not in caplog.text

    @pytest.mark.parametrize(
        "error, told",
        [
            (MemoryError(), MemoryError),
            (PermissionError(13, "no"), PermissionError),
            (ValueError("PERMISSION_DENIED: no"), ValueError),
            (ValueError("UNAVAILABLE: network"), RuntimeError),  # which a restart may mend
            (ValueError('UNKNOWN: Error reading "a": Input/output error'), RuntimeError),
            (ValueError("UNKNOWN: Failed to open: /a/d/1: Stale file handle"), RuntimeError),
            (ValueError("INTERNAL: no"), RuntimeError),
            (ValueError("CANCELLED: no"), RuntimeError),
        ],
    )
    def test_other_errors_are_no_damage(self, copy, config, error, told, monkeypatch):
        def fail(*_, **__):
            raise error

        monkeypatch.setattr(reader.ocp.Checkpointer, "restore", fail)
        with Checkpoints(copy, config.checkpoint, create=True) as checkpoints:
            with pytest.raises(told) as raised:
                checkpoints.restore(target(large_items(0)), config)
            assert raised.type is told and checkpoints.steps() == [1, 2, 3]

    def test_a_disk_that_does_not_answer_is_no_damage(self, copy, monkeypatch):
        def fail(path):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

        with Checkpoints(copy) as checkpoints:
            monkeypatch.setattr(type(checkpoints.folder), "read_bytes", fail)
            with pytest.raises(RuntimeError, match="cannot be read now: .*Stale file handle"):
                checkpoints.meta()

    def test_another_process_that_cannot_read_counts(self, copy, config, monkeypatch, caplog):
        answers = iter([False, True, True])
        monkeypatch.setattr(processes, "everyone", lambda ok: ok and next(answers))
        with Checkpoints(copy) as checkpoints:
            equal(checkpoints.restore(target(large_items(0)), config), large_items(2))
        assert "3: another process cannot read it" in caplog.text


class TestFolders:
    def test_clocks_play_no_part(self, copy, config):
        for step, year in ((1, 2100), (2, 2000), (3, 1990)):
            stamp = (year - 1970) * 365 * 86400
            for path in [*(copy / "checkpoints" / str(step)).rglob("*"), copy / "checkpoints"]:
                os.utime(path, (stamp, stamp))
            os.utime(copy / "checkpoints" / str(step), (stamp, stamp))
        config.checkpoint.keep_latest, config.checkpoint.keep_best = 2, 0
        with Checkpoints(copy, config.checkpoint, create=True) as checkpoints:
            equal(checkpoints.restore(target(large_items(0)), config), large_items(3))
            checkpoints.save(4, large_items(4), config, {})
        assert Checkpoints(copy).steps() == [3, 4]

    def test_foreign_files_and_cut_saves(self, copy, config):
        folder = copy / "checkpoints"
        (folder / "README").write_text("mine")
        (folder / "9").write_text("a file that looks like a step")
        (folder / "007").mkdir()
        (folder / "best").symlink_to("2")
        cut = folder / "4.orbax-checkpoint-tmp" / "params.orbax-checkpoint-tmp"
        cut.mkdir(parents=True)
        (cut / "data").write_bytes(b"x" * 1000)
        with Checkpoints(copy) as checkpoints:
            assert checkpoints.steps() == [1, 2, 3]
            equal(checkpoints.restore(target(large_items(0)), config), large_items(3))
        assert cut.exists()  # a reader removes nothing
        with Checkpoints(copy, config.checkpoint, create=True) as checkpoints:
            assert not cut.parent.exists()
            checkpoints.save(4, large_items(4), config, {})
        assert Checkpoints(copy).latest_step() == 4
        assert (folder / "README").read_text() == "mine" and (folder / "007").is_dir()

    def test_a_deletion_that_was_killed_is_finished(self, copy, config):
        half_deleted(copy / "checkpoints" / "1")
        config.checkpoint.keep_latest, config.checkpoint.keep_best = 2, 1
        with Checkpoints(copy, config.checkpoint, create=True) as checkpoints:
            checkpoints.save(4, large_items(4), config, {"eval/psnr": 1.0})
        assert Checkpoints(copy).steps() == [3, 4]


class TestKept:
    def test_every_so_many_steps(self, tmp_path, config):
        config.checkpoint.keep_latest, config.checkpoint.keep_best = 1, 0
        config.checkpoint.keep_every = 4
        save(tmp_path, config, range(1, 11))
        assert Checkpoints(tmp_path).steps() == [4, 8, 10]

    def test_the_best_survives_a_restart(self, tmp_path, config):
        config.checkpoint.keep_latest, config.checkpoint.keep_best = 1, 1
        save(tmp_path, config, [1, 2], {1: 30.0, 2: 10.0})
        save(tmp_path, config, [3], {3: 20.0})
        save(tmp_path, config, [4])
        assert Checkpoints(tmp_path).steps() == [1, 4]

    def test_several_best_are_kept_from_the_first_on(self, tmp_path, config):
        config.checkpoint.keep_latest, config.checkpoint.keep_best = 1, 3
        values = {1: 10.0, 2: 20.0, 3: 30.0, 4: 5.0, 5: 15.0, 6: 4.0}
        save(tmp_path, config, list(values)[:5], values)
        assert Checkpoints(tmp_path).steps() == [2, 3, 5]
        save(tmp_path, config, [6], values)
        assert Checkpoints(tmp_path).steps() == [2, 3, 5, 6]

    @pytest.mark.parametrize("key", ["keep_best", "keep_every"])
    def test_negative_values(self, config, key):
        config.checkpoint[key] = -1
        with pytest.raises(ValueError, match=f"checkpoint.{key}=-1 must not be negative"):
            check(config)


SECOND_NOTICE = """
import os, pathlib, signal, sys, time
import jax
jax.distributed.initialize(f"127.0.0.1:{sys.argv[2]}", 1, 0)
from configs import tiny
from helpers.saves import items, save
from unitok_jax.runtime import processes
from unitok_jax.checkpoints.manager import Checkpoints
folder, config, preemption = pathlib.Path(sys.argv[1]), tiny.get_config(), processes.Preemption()
save(folder, config, [1])
with Checkpoints(folder, config.checkpoint, create=True) as checkpoints:
    os.kill(os.getpid(), signal.SIGTERM)
    step = 2
    while not preemption.requested():
        assert step < 2000, "no notice"
        step += 1
        time.sleep(0.01)
    checkpoints.save(step, items(step), config, {})
assert Checkpoints(folder).steps() == [1, step]
print("saved", step)
"""


def test_a_job_that_was_resumed_is_saved_at_a_notice(tmp_path):
    """In a job of processes, where Orbax asks JAX's service whether a notice came."""
    command = [sys.executable, "-c", SECOND_NOTICE, str(tmp_path), str(free_port())]
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0 and "saved" in done.stdout, done.stdout


def mesh_target(tree, data, fsdp):
    devices = jax.devices()[: data * fsdp]
    return sharding.place_shapes(tree, sharding.make_mesh(data, fsdp, devices))[0]


def test_other_meshes_read_the_same_bits(tmp_path, config):
    """8 x 1 -> 2 x 4 -> 1 -> 1 x 8 devices, each saved by the one before."""
    tree = jax.device_get(large_items(5))
    previous = tmp_path / "0"
    with Checkpoints(previous, create=True) as checkpoints:
        checkpoints.save(5, tree, config, {})
    for data, fsdp in ((8, 1), (2, 4), (1, 1), (1, 8)):
        with Checkpoints(previous) as checkpoints:
            found = checkpoints.restore(mesh_target(tree, data, fsdp), config)
        equal(found, tree)
        kernel = found["params"]["a"]["kernel"]
        assert len(kernel.sharding.device_set) == data * fsdp
        assert kernel.sharding.shard_shape(kernel.shape) == (1000 // fsdp, 300)
        previous = tmp_path / f"{data}x{fsdp}"
        with Checkpoints(previous, create=True) as checkpoints:
            checkpoints.save(5, found, config, {})


def test_a_save_on_many_devices_compiles_nothing(tmp_path, config, caplog, monkeypatch):
    """What they all hold, one of them writes; slices would need a program for each shape."""
    monkeypatch.setattr(manager, "_SHARED", 0)
    items = large_items(2)
    whole = NamedSharding(sharding.make_mesh(8, 1), P())
    held = jax.device_put(items, whole)
    with Checkpoints(tmp_path, create=True) as checkpoints, jax.log_compiles():
        checkpoints.save(2, held, config, {})
    assert [
        record.getMessage() for record in caplog.records if "ompil" in record.getMessage()
    ] == []
    with Checkpoints(tmp_path) as checkpoints:
        equal(checkpoints.restore(target(items), config), items)


class TestFullDisk:
    """On a disk of 4 MB that holds two checkpoints of 1.2 MB, but no three."""

    @pytest.fixture
    def small(self, tmp_path):
        with mounts.tmpfs(tmp_path / "small", "size=4m") as folder:
            yield folder

    def test_it_is_told_before_the_save(self, small, config):
        with Checkpoints(small, config.checkpoint, create=True) as checkpoints:
            checkpoints.save(1, large_items(1), config, {})
            checkpoints.wait()
            (small / "other").write_bytes(bytes(2 * 2**20))
            with pytest.raises(OSError, match=r"0\.\d+ GB free .* up to 0\.001 GB.*ones: 1\."):
                checkpoints.save(2, large_items(2), config, {})

    @pytest.mark.parametrize("when", ["next save", "end"])
    def test_it_is_told_when_the_disk_fills_during_the_save(self, small, config, when, monkeypatch):
        monkeypatch.setattr(workdir, "free_bytes", lambda folder: 2.0 * BYTES)
        config.checkpoint.keep_latest = 9
        message = r"step 2 was not saved, the disk is full: .*small/checkpoints has .* ones: 1\."
        with pytest.raises(OSError, match=message):
            with Checkpoints(small, config.checkpoint, create=True) as checkpoints:
                checkpoints.save(1, large_items(1), config, {})
                checkpoints.wait()
                (small / "other").write_bytes(bytes(2 * 2**20))
                checkpoints.save(2, large_items(2), config, {})
                if when == "next save":
                    checkpoints.save(3, large_items(3), config, {})
                    pytest.fail("a save after one that failed")
        with Checkpoints(small) as checkpoints:
            equal(checkpoints.restore(target(large_items(0)), config), large_items(1))
        (small / "other").unlink()
        monkeypatch.undo()
        with Checkpoints(small, config.checkpoint, create=True) as checkpoints:
            checkpoints.save(2, large_items(2), config, {})
        assert Checkpoints(small).steps() == [1, 2]


def test_digest_sees_order_and_single_bits():
    a = jnp.arange(6.0)
    flipped = a.at[3].set(jnp.nextafter(a[3], jnp.inf))
    values = [int(reader.digests(x)) for x in (a, a[::-1], flipped, a + 0)]
    assert len(set(values[:3])) == 3 and values[0] == values[3]


def test_digests_on_the_host_are_those_of_a_device(monkeypatch):
    monkeypatch.setattr(reader, "_PIECE", 7)
    rng = np.random.default_rng(0)
    tree = {
        "floats": rng.normal(size=(5, 9)).astype(np.float32),
        "strided": rng.normal(size=(6, 8)).astype(np.float32)[:, ::2],
        "scalar": np.int32(-3),
        "halves": rng.normal(size=11).astype(jnp.bfloat16),
    }
    tree = {name: np.asarray(array) for name, array in tree.items()}
    placed = jax.tree.map(jnp.asarray, tree)
    assert reader.named_digests(tree) == jax.device_get(reader.digests(placed))
    assert reader.named_digests(placed) == reader.named_digests(tree)
    words = {name: array for name, array in tree.items() if name != "halves"}
    with jax.transfer_guard("disallow"):
        reader.named_digests(words)
    whole = jnp.arange(16.0).reshape(8, 2)
    mesh = sharding.make_mesh(4, 2)
    for spec in (P(), P("fsdp"), P(("data", "fsdp"))):
        split = {"whole": jax.device_put(whole, NamedSharding(mesh, spec))}
        assert reader.named_digests(split) == jax.device_get(reader.digests(split))


def test_binding_keys_exist():
    keys = {key for product in PRODUCTS for key in differences.flat(product.get_config().to_dict())}
    for name in differences.BINDING:
        assert any(key == name or key.startswith(name + ".") for key in keys), name
    assert differences.ADDED.keys() <= keys


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_checkpoint_older_than_a_key_has_what_was_done_then(product, caplog):
    """Its runs go on, and no difference is told."""
    now = product.get_config()
    before = now.to_dict()
    for key in differences.ADDED.keys() & differences.flat(before).keys():
        now.update_from_flattened_dict({key: differences.ADDED[key]})
        *room, leaf = key.split(".")
        del (before[room[0]] if room else before)[leaf]
    assert before != now.to_dict()
    with caplog.at_level("INFO"):
        assert differences.config_differences(before, now.to_dict()) == []
    assert not caplog.text


def test_the_value_of_a_key_that_a_saved_configuration_may_lack():
    """A file has no key of its day's future, and converted ones no room of training."""
    saved = {"model": {"dtype": "float32"}, "optim": {"lora_rank": 4}}
    assert differences.value(saved, "optim.lora_rank") == 4
    assert differences.value({"optim": {}}, "optim.lora_rank") == 0
    assert differences.value({"model": {}}, "optim.lora_rank") == 0
    assert differences.value(saved, "product") == "tokenizer"
    assert differences.value({"product": "generator"}, "product") == "generator"
    with pytest.raises(KeyError, match="model.size"):
        differences.value(saved, "model.size")


def test_a_key_that_an_older_checkpoint_lacks_is_told_when_set(caplog):
    now = tiny.get_config()
    before = now.to_dict()
    del before["gan"]["adaptive"], before["gan"]["generator_loss"], before["loss"]["gram"]
    now.loss.gram, now.gan.adaptive, now.gan.generator_loss = 200.0, False, "non_saturating"
    with caplog.at_level("INFO"):
        assert differences.config_differences(before, now.to_dict()) == []
    for line in (
        "gan.adaptive: saved None, now False",
        "gan.generator_loss: saved None, now 'non_saturating'",
        "loss.gram: saved None, now 200.0",
    ):
        assert line in caplog.text


class TestMetaOfStrangers:
    """A checkpoint's JSON item, which no checksum covers."""

    @pytest.mark.parametrize(
        "change, words",
        [
            ({"config": None}, "config"),
            ({"config": {"model": 3, "data": {}}}, "config.model"),
            ({"config": {"model": {}}}, "config.data"),
            ({"digests": []}, "digests"),
            ({"digests": {"params": 3}}, "digests.params"),
            ({"step": "5"}, "step"),
            ({"data": [1]}, "data"),
            ({"metrics": {"eval/psnr": "high"}}, "metrics"),
        ],
    )
    def test_another_kind_of_value_is_damage(self, tmp_path, config, change, words):
        save(tmp_path, config, [5])
        path = tmp_path / "checkpoints" / "5" / "meta" / "metadata"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        with Checkpoints(tmp_path) as checkpoints:
            with pytest.raises(reader.DamagedError, match=f"another kind of value at {words}$"):
                checkpoints.meta(5)

    @pytest.mark.parametrize("text", ["[" * 10**5, "[1]", "9" * 5000, "", "\xff"])
    def test_no_object_is_damage(self, tmp_path, config, text):
        save(tmp_path, config, [5])
        path = tmp_path / "checkpoints" / "5" / "meta" / "metadata"
        path.write_text(text, encoding="latin1")
        with Checkpoints(tmp_path) as checkpoints:
            with pytest.raises(reader.DamagedError, match="metadata"):
                checkpoints.meta(5)

    @pytest.mark.parametrize(
        "key, value", [("latent_width", "64"), ("num_codebooks", 0), ("vocab_size", 8 * 10**15)]
    )
    def test_a_model_that_no_config_has(self, tmp_path, config, key, value):
        save(tmp_path, config, [5])
        path = tmp_path / "checkpoints" / "5" / "meta" / "metadata"
        meta = json.loads(path.read_text())
        meta["config"]["model"][key] = value
        path.write_text(json.dumps(meta))
        with pytest.raises(ValueError, match=f"checkpoints.*: model.{key}=.* must be an integer"):
            load.read(tmp_path)

    def test_an_image_size(self, tmp_path, config):
        save(tmp_path, config, [5])
        path = tmp_path / "checkpoints" / "5" / "meta" / "metadata"
        meta = json.loads(path.read_text())
        meta["config"]["data"]["image_size"] = [16 * 10**9, 64]
        path.write_text(json.dumps(meta))
        with pytest.raises(ValueError, match="data.image_size=.* is over 8192"):
            load.read(tmp_path)

    def test_a_home_folder(self, tmp_path, config, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        save("~/run", config, [5])
        assert (tmp_path / "run" / "checkpoints" / "5").is_dir()
