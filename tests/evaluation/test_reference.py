"""Reference statistics of others, read without trust."""

import pickle
import random
import resource
import zipfile

import numpy as np
import pytest
from ml_collections import ConfigDict

from unitok_jax.data.health import SampleError
from unitok_jax.evaluation.card import statistics
from unitok_jax.evaluation.metrics.frechet import Moments

pytestmark = pytest.mark.slow

FACTS = {"inception": "abc", "preprocessing": "p"}


@pytest.fixture
def narrow(monkeypatch):
    """References of 4 features: files of a few hundred bytes."""
    monkeypatch.setattr(statistics, "_SHAPES", {"mu": (4,), "sigma": (4, 4)})


def moments():
    return Moments(np.arange(4.0), np.eye(4), 10)


def put(path, **arrays):
    np.savez(path, **{"mu": np.zeros(4), "sigma": np.eye(4)} | arrays)
    return path


def refused(path):
    with pytest.raises(ValueError) as error:
        statistics.read(path)
    assert path.name in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def test_comes_back_from_a_home_folder(tmp_path, monkeypatch, narrow):
    monkeypatch.setenv("HOME", str(tmp_path))
    statistics.write("~/a/x.npz", moments(), FACTS)
    found, facts = statistics.read("~/a/x.npz")
    np.testing.assert_array_equal(found.mean, moments().mean)
    assert found.count == 10 and facts == FACTS
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x.npz"]


def test_facts_of_a_source_with_bad_samples_and_odd_names():
    class Records(list):
        def __getitem__(self, index):
            if index == 3:
                raise SampleError("row 3 has no image", "not_an_image")
            return {"name": f"caf\udce9{index}.png", "image": super().__getitem__(index)}

    data = ConfigDict({"source": "folder", "path": "", "captions": ""})
    images = [bytes([number]) for number in range(40)]
    told = [statistics.source_facts(data, Records(images[:count])) for count in (4, 5, 4)]
    assert told[0] == told[2] != told[1] and told[0]["samples"] == 4
    changed = Records([b"x", *images[1:4]])
    assert statistics.source_facts(data, changed)["probes"] != told[0]["probes"]


def test_one_of_another_project_has_no_facts(tmp_path, narrow):
    path = put(tmp_path / "x.npz", sigma=np.asfortranarray(np.eye(4, dtype=np.float32)))
    found, facts = statistics.read(path)
    assert found.count == 0 and facts == {} and found.covariance.dtype == np.float64


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"mu": np.zeros(5)}, "mu is float64 (5,)"),
        ({"mu": np.full(4, np.nan)}, "mu holds values that are not finite"),
        ({"sigma": np.full((4, 4), np.inf)}, "sigma holds values that are not finite"),
        ({"mu": np.zeros(4, complex)}, "mu is complex128"),
        ({"mu": np.array([None] * 4)}, "mu is object"),
        ({"mu": np.zeros(4, [("a", float)])}, "mu is [('a', '<f8')]"),
        ({"count": np.array(-1)}, "count=-1"),
        ({"count": np.array([1, 2])}, "count is int64 (2,)"),
        ({"facts": np.array("[1]")}, "expected a JSON object"),
        ({"facts": np.array("[" * 10**5)}, "nested too deeply"),
        ({"facts": np.array(3)}, "facts is int64"),
    ],
)
def test_members_that_are_none(tmp_path, narrow, changes, words):
    assert words in refused(put(tmp_path / "x.npz", **changes))


def test_members_that_are_missing(tmp_path, narrow):
    np.savez(tmp_path / "x.npz", mu=np.zeros(4))
    assert "does not hold the array sigma" in refused(tmp_path / "x.npz")


def npy(shape, data=b"", version=(1, 0)):
    head = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    length = len(head).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + length + head + data


@pytest.mark.parametrize("name", ["mu", "sigma", "count", "facts"])
def test_what_would_unpack_to_much_is_not_unpacked(tmp_path, name):
    """Zeros of 1 GB in 1 MB, and an array that only says it is large."""
    path = tmp_path / "x.npz"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        good = {"mu": npy("(2048,)", bytes(8 * 2048)), "sigma": npy("(2048, 2048)", bytes(1 << 25))}
        for key, content in good.items():
            if key != name:
                archive.writestr(f"{key}.npy", content)
        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            member.write(npy("(134217728,)"))
            for _ in range(64):
                member.write(bytes(1 << 24))
    assert path.stat().st_size < 3 << 20
    assert f"{name} takes 1,073,741" in refused(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mu.npy", npy("(99999999999,)"))
        archive.writestr("sigma.npy", npy("(4, 4)", bytes(128)))
    assert "mu is float64 (99999999999,)" in refused(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"<html>",
        npy("(4,)", bytes(32)),
        pickle.dumps({"mu": 1}),
        b"PK\x03\x04garbage",
    ],
)
def test_other_files(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    refused(tmp_path / "x.npz")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        statistics.read(tmp_path / "x.npz")
    assert "is a folder" in refused(tmp_path)
    (tmp_path / "zero").symlink_to("/dev/zero")
    assert "is a device" in refused(tmp_path / "zero")


def test_damage_is_one_line(tmp_path, narrow):
    path, draw, refusals = tmp_path / "x.npz", random.Random(0), 0
    statistics.write(path, moments(), FACTS)
    whole = path.read_bytes()
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(draw.choice((1, 2, 8))):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        if draw.random() < 0.25:
            del damaged[draw.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        try:
            statistics.read(path)
        except ValueError as error:
            assert path.name in str(error)
            refusals += 1
    assert refusals > 100
