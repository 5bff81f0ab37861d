"""Reading codes on disk: records, slices, threads, worker processes, and folders that are wrong."""

import concurrent.futures
import json
import multiprocessing
import os
import pathlib
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

import unitok_jax
from helpers.formats import outcomes
from helpers.tokenized import make_images
from unitok_jax.data.codes import files as code_files
from unitok_jax.data.codes import shards
from unitok_jax.data.health import Tally
from unitok_jax.data.writing import folders as shard_files
from unitok_jax.data.writing.facts import shards_of
from unitok_jax.data.writing.folders import claim

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
STORAGES = ("array_record", "parquet")
COUNT, SIZE = 600, 280  # more than a row group in a shard, three shards


def write(output, storage, tokenizer="a" * 32, count=COUNT, bad=()):
    """Codes that tell their index."""
    settings = {
        "format": code_files.FORMAT,
        "version": code_files.VERSION,
        "--format": storage,
        "--shard_size": SIZE,
        "--views": "center+flip",
        "tokenizer": tokenizer,
        "precision": "bfloat16",
        "grid": [2, 3],
        "num_codebooks": 4,
        "codebook_size": 65536,
        "tokens": 7,
        "samples": count,
    }
    claim(output, settings, "test")
    facts = []
    for number in shards_of(settings):
        indices = range(number * SIZE, min(count, (number + 1) * SIZE))
        samples = [
            {"reason": "empty", "message": str(i)}
            if i in bad
            else {"name": f"caf\u00e9/{i}.jpg", "captions": (f"picture {i}",) * (i % 3), "label": i}
            for i in indices
        ]
        codes = np.stack([np.full((2, 4, 7), 65535 - i, np.uint16) for i in indices])
        batches = [([*samples, None], np.append(codes, codes[:1], 0))]
        facts.append(shards.write_shard(output, settings, number, batches))
    return shards.finish(output, settings, facts, Tally(), 0.5)


@pytest.fixture(scope="module", params=STORAGES)
def folder(request, tmp_path_factory):
    output = tmp_path_factory.mktemp("codes") / request.param
    write(output, request.param, bad=(0, 300))
    return output


def copied(folder, tmp_path):
    return pathlib.Path(shutil.copytree(folder, tmp_path / "copy"))


def index_of(record):
    return 65535 - int(record["codes"][0, 0, 0])


class TestSequence:
    def test_records(self, folder):
        codes = unitok_jax.open_codes(folder)
        assert len(codes) == COUNT - 2
        assert (codes.grid, codes.codebook_shape) == ((2, 3), (4, 65536))
        assert (codes.tokenizer_hash, codes.precision) == ("a" * 32, "bfloat16")
        assert codes.manifest == json.loads((folder / "manifest.json").read_text())
        assert [index_of(r) for r in codes] == [i for i in range(COUNT) if i not in (0, 300)]
        for record in (codes[0], codes[298], codes[-1]):
            index = index_of(record)
            assert record["key"] == f"caf\u00e9/{index}.jpg" and record["label"] == index
            assert record["captions"] == (f"picture {index}",) * (index % 3)
            assert record["grid"] == (2, 3) and record["codes"].shape == (2, 4, 7)
            assert record["codes"].dtype == np.uint16 and (record["codes"] == 65535 - index).all()
            record["codes"][:] = 0  # the reader's own memory is another
        assert index_of(codes[0]) == 1
        for beyond in (COUNT - 2, -COUNT + 1):
            with pytest.raises(IndexError, match="there are 598"):
                codes[beyond]

    def test_slices(self, folder):
        codes = unitok_jax.open_codes(folder)
        part = codes[10:20]
        assert len(part) == 10 and [index_of(r) for r in part] == list(range(11, 21))
        assert index_of(part[::-2][1]) == 18 and index_of(part[-1]) == 20 and not len(codes[5:5])
        assert [index_of(r) for r in codes.take([3, 1])] == [4, 2]
        assert part.grid == codes.grid

    def test_find(self, folder):
        codes = unitok_jax.open_codes(folder)
        assert codes.find("caf\u00e9/301.jpg") == 299
        assert codes[290:].find("caf\u00e9/301.jpg") == 9
        cafe = "caf\u00e9/"
        for view, key in (
            (codes, "none"),
            (codes, f"{cafe}/300.jpg"),
            (codes[:5], f"{cafe}/9.jpg"),
        ):
            with pytest.raises(KeyError):
                view.find(key)

    def test_threads_and_workers(self, folder):
        codes = unitok_jax.open_codes(folder)
        expected = [record["key"] for record in codes]
        order = np.random.default_rng(0).permutation(len(codes)).tolist()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = dict(zip(order, pool.map(lambda i: codes[i]["key"], order), strict=True))
        assert [found[i] for i in range(len(codes))] == expected
        again = pickle.loads(pickle.dumps(codes))
        assert again[5]["key"] == expected[5]
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.map(codes.__getitem__, [7])[0]["key"] == expected[7]

    def test_needs_no_jax(self, folder):
        code = (
            "import sys, unitok_jax\n"
            f"unitok_jax.open_codes({str(folder)!r})[0]\n"
            "sys.exit('jax' in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


class TestBadInput:
    def test_nothing_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="none is no folder.*unitok tokenize"):
            unitok_jax.open_codes(tmp_path / "none")
        with pytest.raises(ValueError, match="holds no codes"):
            unitok_jax.open_codes(make_images(tmp_path, 1))

    def test_unfinished(self, folder, tmp_path):
        output = copied(folder, tmp_path)
        (output / "manifest.json").unlink()
        with pytest.raises(ValueError, match="not finished.*same command again, with"):
            unitok_jax.open_codes(output)

    def test_truncated_or_missing_shard(self, folder, tmp_path):
        output = copied(folder, tmp_path)
        (shard,) = output.glob(f"000001.{folder.name}")
        os.truncate(shard, shard.stat().st_size - 1)
        with pytest.raises(ValueError, match=rf"000001.{folder.name} has \d+ bytes, not the \d+"):
            unitok_jax.open_codes(output)
        shard.unlink()
        with pytest.raises(FileNotFoundError, match=f"000001.{folder.name}.*is gone"):
            unitok_jax.open_codes(output)

    def test_shard_of_another_tokenizer(self, folder, tmp_path):
        """With its facts, which opening sees, and alone, which reading sees."""
        output, other = copied(folder, tmp_path), tmp_path / "other"
        write(other, folder.name, "b" * 32, bad=(0, 300))
        name = f"000001.{folder.name}"
        for file in (name, "000001.json"):
            shutil.copy(other / file, output / file)
        message = f"{name}.*another tokenizer.*{'b' * 32}.*{'a' * 32}"
        with pytest.raises(ValueError, match=message):
            unitok_jax.open_codes(output)
        shutil.copy(folder / "000001.json", output / "000001.json")
        assert (output / name).stat().st_size == (folder / name).stat().st_size
        codes = unitok_jax.open_codes(output)
        assert index_of(codes[0]) == 1
        with pytest.raises(ValueError, match=message):
            codes[400]

    def test_shard_of_another_folder(self, folder, tmp_path):
        """Of the same tokenizer and size: its hash tells."""
        output, other = copied(folder, tmp_path), tmp_path / "other"
        write(other, folder.name, bad=(1, 300))
        name = f"000000.{folder.name}"
        for file in (name, "000000.json"):
            shutil.copy(other / file, output / file)
        with pytest.raises(ValueError, match=f"{name} (is another than|has .* bytes)"):
            unitok_jax.open_codes(output)

    def test_damaged_inside(self, folder, tmp_path):
        output = copied(folder, tmp_path)
        (shard,) = output.glob(f"000000.{folder.name}")
        shard.write_bytes(b"x" * shard.stat().st_size)
        with pytest.raises(ValueError, match=f"000000.{folder.name}"):
            unitok_jax.open_codes(output)[0]

    def test_no_changed_byte_passes(self, folder, tmp_path):
        """Bytes changed all over a shard: an error that names it, or they were no record's."""
        output = copied(folder, tmp_path)
        (shard,) = output.glob(f"000001.{folder.name}")
        records, whole = list(unitok_jax.open_codes(folder)[279:558]), shard.read_bytes()
        errors = 0
        for place in np.linspace(100, len(whole) * 0.9, 40, dtype=int):
            shard.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            try:
                found = list(unitok_jax.open_codes(output)[279:558])
            except ValueError as error:
                assert shard.name in str(error), error
                errors += 1
                continue
            for one, other in zip(records, found, strict=True):
                np.testing.assert_equal(other, one)
        assert errors > 10

    def test_damaged_facts_and_digests(self, folder, tmp_path):
        output = copied(folder, tmp_path)
        os.truncate(output / "000001.keys", 80)
        codes = unitok_jax.open_codes(output)
        with pytest.raises(ValueError, match="000001.keys tells of 10 keys, not 279; copy it"):
            codes.find("caf\u00e9/301.jpg")
        (output / "000001.json").write_text('{"file')
        with pytest.raises(ValueError, match="000001.json is damaged.*copy it again"):
            unitok_jax.open_codes(output)

    def test_manifests_of_others(self, folder, tmp_path):
        output = copied(folder, tmp_path)
        manifest = json.loads((output / "manifest.json").read_text())
        for content, message in (
            ("{", "was not written by"),
            (json.dumps({**manifest, "settings": None}), "was not written by"),
            (json.dumps({k: manifest[k] for k in ("format", "version")}), "was not written by"),
            (json.dumps({**manifest, "version": 9}), "says unitok_jax.codes 9; this reads"),
            (json.dumps({**manifest, "format": "unitok_jax.array_record"}), "array_record 1; this"),
        ):
            (output / "manifest.json").write_text(content)
            with pytest.raises(ValueError, match=message):
                unitok_jax.open_codes(output)

    @pytest.mark.parametrize(
        "change",
        [
            {"settings": {"grid": [10**18, 10**18]}},
            {"settings": {"grid": [-2, -3]}},
            {"settings": {"grid": [2]}},
            {"settings": {"grid": 6}},
            {"settings": {"num_codebooks": "4"}},
            {"settings": {"num_codebooks": 10**9, "tokens": 10**9}},
            {"settings": {"num_codebooks": 4096, "tokens": 10**7}},
            {"settings": {"num_codebooks": 0}},
            {"settings": {"codebook_size": 10**18}},
            {"settings": {"tokens": None}},
            {"settings": {"--views": "all"}},
            {"settings": {"--views": ["ten"]}},
            {"settings": {"--format": "pickle"}},
            {"settings": {"tokenizer": {"a": {}}}},
            {"views": 10},
            {"views": True},
            {"count": -1},
            {"count": 10**18},
            {"count": [[]]},
            {"shard": {"count": 10**18}},
            {"shard": {"count": "64"}},
            {"shard": {"count": -1}},
            {"shard": {"bytes": None}},
            {"shard": {"file": "../copy/000000.parquet"}},
            {"shard": {"file": "/dev/zero"}},
            {"shard": {"file": 5}},
            {"shard": {"sha256": 5}},
        ],
        ids=str,
    )
    def test_hostile_manifest(self, folder, tmp_path, change):
        output = copied(folder, tmp_path)
        manifest = json.loads((output / "manifest.json").read_text())
        if "shard" in change:
            manifest["shards"][0] |= change["shard"]
        elif "settings" in change:
            manifest["settings"] |= change["settings"]
        else:
            manifest |= change
        (output / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(ValueError, match=f"^{output}/manifest.json (was not|names) ") as error:
            unitok_jax.open_codes(output)
        assert "\n" not in str(error.value) and len(str(error.value)) < 500

    @pytest.mark.parametrize(
        "change",
        [
            {"file": "000001.parquet"},
            {"count": "300"},
            {"skipped": {"empty": "x"}},
            {"skipped": [1]},
            {"sha256": None},
            {"tokenizer": 5},
        ],
        ids=str,
    )
    def test_facts_that_cannot_be_are_none(self, folder, tmp_path, change):
        output = copied(folder, tmp_path)
        settings = json.loads((output / "settings.json").read_text())
        assert shards.shard_facts(output, settings, 0)
        facts = output / "000000.json"
        facts.write_text(json.dumps(json.loads(facts.read_text()) | change))
        assert shards.shard_facts(output, settings, 0) is None
        facts.write_text("[" * 10**5)
        assert shards.shard_facts(output, settings, 0) is None

    def test_digests_of_another_length(self, folder, tmp_path):
        output = copied(folder, tmp_path)
        with open(output / "000000.keys", "r+b") as file:
            file.truncate(1 << 40)  # of which no disk holds a byte
        with pytest.raises(ValueError, match="000000.keys tells of 137438953472 keys, not"):
            unitok_jax.open_codes(output).find("x")


def test_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    for storage in STORAGES:
        settings = {
            **{"format": code_files.FORMAT, "version": 1, "--format": storage, "--shard_size": 1},
            **{"--views": "center", "tokenizer": "a", "grid": [1, 1], "num_codebooks": 1},
            **{"codebook_size": 2, "tokens": 1, "samples": 1},
        }
        output = tmp_path / storage
        claim(output, settings, "test")
        batches = [([{"name": name, "captions": ()}], np.zeros((1, 1, 1, 1), np.uint16))]
        if storage == "parquet":
            with pytest.raises(ValueError, match="not UTF-8.*--format=array_record"):
                shards.write_shard(output, settings, 0, batches)
            continue
        facts = shards.write_shard(output, settings, 0, batches)
        shards.finish(output, settings, [facts], Tally(), 0.0)
        codes = unitok_jax.open_codes(output)
        assert codes[0]["key"] == name and codes.find(name) == 0


def test_digests_that_are_equal_by_chance(tmp_path, monkeypatch):
    """Different keys of one digest are not one key twice."""
    monkeypatch.setattr(shards, "digest", lambda key: 7)
    assert write(tmp_path / "out", "parquet", count=3)["count"] == 3


def test_a_file_that_another_process_finished_and_swept(tmp_path):
    """Of two that write the same folder, the first to finish removes what the other has begun."""
    path = tmp_path / "000000.parquet"
    path.write_bytes(b"whole")
    begun = shard_files.partial(path)
    begun.write_bytes(b"whole")
    expected = shard_files.seal(path)
    assert not begun.exists()
    assert shard_files.seal(path) == expected and expected["bytes"] == 5
    path.unlink()
    with pytest.raises(FileNotFoundError):
        shard_files.seal(path)


def begin(folders, view, together):
    """What a process with its own settings is told of each folder that it claims; None: go on."""
    told = []
    for folder in folders:
        together.wait()
        try:
            told.append(claim(folder, {"format": "codes", "--view": view}, "test"))
        except ValueError as error:
            told.append(str(error))
    return told


def test_one_of_many_claims_a_folder(tmp_path):
    """Commands with different settings that begin at once: all but one are refused."""
    folders = [tmp_path / str(turn) for turn in range(20)]
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(3) as pool:
        together = manager.Barrier(3)
        told = pool.starmap(begin, [(folders, view, together) for view in range(3)], chunksize=1)
    for folder, said in zip(folders, zip(*told, strict=True), strict=True):
        assert said.count(None) == 1
        assert sum("begun with other settings" in (text or "") for text in said) == 2, said
        settings = json.loads((folder / "settings.json").read_text())
        assert settings["--view"] == said.index(None)
        assert [file.name for file in folder.iterdir()] == ["settings.json"]


def test_damage_ends_in_errors_of_ours(folder, tmp_path):
    output = copied(folder, tmp_path)
    files = sorted(file for file in output.iterdir() if file.name != "settings.json")
    seen = outcomes(lambda: unitok_jax.open_codes(output), files, 100)
    assert seen["good"] > 500 and seen["open ValueError"] > 10
