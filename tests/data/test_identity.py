"""What the samples of a source are: the same wherever they lie, and in whatever format."""

import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import tiny
from helpers.tar_files import make_tar, sample
from unitok_jax.checkpoints.differences import fact_differences
from unitok_jax.data import identity
from unitok_jax.data.health import SampleError
from unitok_jax.data.mixture import Mixture
from unitok_jax.data.sources import open_source
from unitok_jax.data.writing import packing
from unitok_jax.data.writing.folders import claim


def opened(source, path, **more) -> dict:
    data = ConfigDict(tiny.get_config().data.to_dict())
    data.source, data.path = source, str(path)
    for key, value in more.items():
        data[key] = value
    return identity.identity(open_source(data))


@pytest.fixture
def folder(tmp_path):
    """Twenty captioned pictures."""
    folder = tmp_path / "first" / "data"
    folder.mkdir(parents=True)
    for index in range(20):
        Image.fromarray(np.full((8, 8, 3), 10 * index, np.uint8)).save(folder / f"{index:02}.png")
        (folder / f"{index:02}.txt").write_text(f"number {index}")
    return folder


def moved(folder, tmp_path):
    return shutil.move(folder, tmp_path / "second")


def test_a_folder_that_moved(folder, tmp_path):
    before = opened("folder", folder)
    assert len(before["samples of the data"]) == 16
    assert opened("folder", moved(folder, tmp_path)) == before


def test_tars_that_moved(tmp_path):
    (tmp_path / "a").mkdir()
    for shard in range(3):
        names = [f"{shard}{index}" for index in range(4)]
        make_tar(tmp_path / "a" / f"{shard}.tar", [f for name in names for f in sample(name)])
    before = opened("tar", f"{tmp_path}/a/{{0..2}}.tar")
    assert opened("tar", moved(tmp_path / "a", tmp_path)) == before


def test_parquet_that_moved(tmp_path, monkeypatch):
    """Its names begin with the path; its row groups decide the order."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = {"image": [b"%d" % i for i in range(6)], "text": [f"number {i}" for i in range(6)]}
    for name, size in (("a", 2), ("b", 3)):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "x.parquet"
        parquet.write_table(pyarrow.table(rows), file, row_group_size=size)
    before, other = opened("parquet", tmp_path / "a"), opened("parquet", tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    assert opened("parquet", "a") == opened("parquet", "a/x.parquet") == before
    assert opened("parquet", moved(tmp_path / "a", tmp_path)) == before
    first, *_ = fact_differences(before, other)
    assert first.startswith("order of the data: blocks: saved '3, digest ")


def test_the_same_samples_in_another_format(folder, tmp_path):
    """Packed, names and order stay: a run may go on with the shards."""
    data = ConfigDict(tiny.get_config().data.to_dict())
    data.source, data.path = "folder", str(folder)
    source, output = open_source(data), tmp_path / "packed"
    settings = packing.plan(data, source, shard_size=8, check=False, require_captions=True)
    claim(output, settings, "pack")
    packing.pack(source, settings, output, workers=1, max_bad=0.0)
    before, now = opened("folder", folder), opened("array_record", output)
    assert now["samples of the data"] == before["samples of the data"]
    assert fact_differences(before, now) == []


def rename(folder):
    """Of a sample that is not among those that are read."""
    for suffix in (".png", ".txt"):
        (folder / f"04{suffix}").rename(folder / f"04b{suffix}")


@pytest.mark.parametrize(
    "change, told",
    [
        (rename, "names of the data: digest: saved '"),
        (lambda f: (f / "05.txt").write_text("new"), "samples of the data: sample 5: saved '05"),
        (lambda f: shutil.copy(f / "01.png", f / "00.png"), "samples of the data: sample 0: saved"),
    ],
    ids=["name", "caption", "image"],
)
def test_other_samples(folder, change, told):
    before = opened("folder", folder)
    change(folder)
    (line,) = fact_differences(before, opened("folder", folder))
    assert line.startswith(told) and ", now '" in line


def test_a_mixture_of_other_weights():
    parts = [[], []]
    one, other = (
        identity.order_facts(Mixture(parts, weights)) for weights in ((1.0, 2.0), (1.0, 3.0))
    )
    assert one != other and one.keys() == identity.order_facts([]).keys()


def test_what_cannot_be_read_now_is_not_compared():
    class Flaky:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            if index == 1:
                raise OSError("the disk is away")
            if index == 2:
                raise SampleError("2 is empty", "empty")
            return {"name": "gs://a/b.parquet, row 0", "image": b"x", "captions": ("y",)}

    probes = identity.identity(Flaky())["samples of the data"]
    assert probes == {
        "sample 0": "b.parquet, row 0, image 8cdc1683, captions fbdb2615",
        "sample 2": "empty",
    }
