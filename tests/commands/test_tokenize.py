"""The tokenize command: what it writes, kills, several processes and devices, bad input."""

import concurrent.futures
import contextlib
import json
import os
import random
import signal
import termios
import time

import jax
import numpy as np
import pytest

import unitok_jax
from helpers import disks, in_process
from helpers.jobs import free_port
from helpers.tokenized import (
    command,
    hashes,
    kill_when,
    loaded_once,
    make_images,
    other_weights,
    run,
    shards,
    start,
)
from unitok_jax.commands import tokenize
from unitok_jax.data.codes.batches import ShardedViews
from unitok_jax.data.codes.views import VIEWS, views
from unitok_jax.data.images.transforms import decode_image, resize_center_crop
from unitok_jax.data.sources import open_source
from unitok_jax.data.specs import data_config
from unitok_jax.data.writing.folders import PARTIAL
from unitok_jax.multimodal.pictures import fitted

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def tokenizers():
    with loaded_once():
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_images(
        tmp_path_factory.mktemp("pictures") / "in", 11, [(70, 90), (64, 64), (99, 65)]
    )


@pytest.fixture(scope="module")
def tokenizer(weights):
    return unitok_jax.load(weights)


def here(capsys, monkeypatch, weights, data, output, *more):
    """Runs the command in this process, which has eight devices: (exit code, printed, error)."""
    arguments = command(weights, data, output, *more)[4:]
    return in_process.run(tokenize, capsys, monkeypatch, *arguments)


class TestViews:
    def test_center_is_the_evaluations(self):
        image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
        (center,) = views(image, (32, 48), "center", 1.1)
        np.testing.assert_array_equal(center, resize_center_crop(image, (32, 48)))
        one, mirrored = views(image, (32, 48), "center+flip", 1.1)
        np.testing.assert_array_equal(one, center)
        np.testing.assert_array_equal(mirrored[:, ::-1], center)

    def test_ten(self):
        """Of a ramp, whose pixels tell where they are."""
        down, right = np.mgrid[0:40, 0:40].astype(np.uint8)
        image = np.stack([down, right, right], -1)  # just covers 32 * 1.25: no scaling
        crops = views(image, (32, 32), "ten", 1.25)
        assert crops.shape == (10, 32, 32, 3)
        assert crops[:5, 0, 0, :2].tolist() == [[0, 0], [0, 8], [8, 0], [8, 8], [4, 4]]
        np.testing.assert_array_equal(crops[5:, :, ::-1], crops[:5])

    def test_padded_is_the_whole_image(self):
        image = np.full((40, 80, 3), 255, np.uint8)
        for kind, colour in (("padded", (122, 116, 104)), ("padded_grey", (127,) * 3)):
            (found,) = views(image, (32, 32), kind, 1.1)
            assert (found[[0, 4, 27, 31]] == colour).all()
            assert (found[10:22] == 255).all()
        image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
        (found,) = views(image, (32, 32), "padded", 1.1)
        np.testing.assert_array_equal(found, fitted(image, (2, 2), "as an answer sees it"))

    def test_ten_without_a_margin_is_five_times_the_centre(self):
        image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
        crops = views(image, (32, 32), "ten", 1.0)
        assert (crops[:5] == crops[0]).all()
        np.testing.assert_array_equal(crops[4], resize_center_crop(image, (32, 32)))


@pytest.mark.parametrize("storage", ["array_record", "parquet"])
@pytest.mark.parametrize("kind", ["center", "center+flip", "ten"])
def test_codes_are_those_of_encode(
    weights, tokenizer, pictures, tmp_path, capsys, monkeypatch, storage, kind
):
    """By eight devices here, and one by one by `encode`; shards of 4, 4 and 3 samples."""
    more = (f"--format={storage}", f"--views={kind}", "--shard_size=4", "--crop_scale=1.3")
    code, printed, error = here(capsys, monkeypatch, weights, pictures, tmp_path / "out", *more)
    assert (code, printed) == (0, f"codes of 11 samples in 3 files in {tmp_path}/out\n"), error
    codes = unitok_jax.open_codes(tmp_path / "out")
    source = open_source(data_config(str(pictures), image_size=(64, 64), context_length=8))
    assert len(codes) == len(source) == 11
    for index, record in enumerate(codes):
        original = source[index]
        assert (record["key"], record["captions"]) == (original["name"], original["captions"])
        assert record["label"] is None and record["grid"] == codes.grid == (4, 4)
        image = decode_image(original["image"], "")
        expected = tokenizer.encode(views(image, (64, 64), kind, 1.3))
        assert record["codes"].dtype == np.uint16
        np.testing.assert_array_equal(record["codes"], expected)
    shown = tokenizer.decode(codes[3]["codes"], codes.grid)
    assert shown.shape == (VIEWS[kind], 64, 64, 3)


def test_any_parquet_reader_understands_it(weights, tmp_path, capsys, monkeypatch):
    from pyarrow import parquet

    for index in range(3):
        make_images(tmp_path / f"in/n{index}", 1, start=index)
    spec = f"labelled:{tmp_path}/in"
    more = ("--format=parquet", "--views=center+flip", "--size=32x48")
    assert here(capsys, monkeypatch, weights, spec, tmp_path / "out", *more)[0] == 0
    table = parquet.read_table(tmp_path / "out/000000.parquet")
    types = {field.name: str(field.type) for field in table.schema}
    assert types["key"] == "string" and types["label"] == "int32"
    assert types["captions"].startswith("list<") and "string" in types["captions"]
    assert types["codes"].startswith("fixed_size_list<") and "uint16>[48]" in types["codes"]
    metadata = table.schema.metadata
    assert json.loads(metadata[b"shape"]) == [2, 4, 6] and json.loads(metadata[b"grid"]) == [2, 3]
    codes = unitok_jax.open_codes(tmp_path / "out")
    assert metadata[b"tokenizer"].decode() == codes.tokenizer_hash
    assert [record["label"] for record in codes] == table["label"].to_pylist() == [0, 1, 2]
    assert codes.manifest["settings"]["class_names"] == ["n0", "n1", "n2"]
    np.testing.assert_array_equal(codes[1]["codes"].ravel(), table["codes"][1].as_py())


def test_the_first_samples_of_a_set_without_end(weights, tmp_path, capsys, monkeypatch):
    """Their labels and captions are kept; another number is another folder."""
    arguments = weights, "shapes:single", tmp_path / "out"
    code, _, error = here(capsys, monkeypatch, *arguments, "--limit=66")
    assert code == 0, error
    codes = unitok_jax.open_codes(tmp_path / "out")
    assert [record["label"] for record in codes] == [*range(64), 0, 1]
    names = codes.manifest["settings"]["class_names"]
    assert len(names) == 64 and f"a {names[5]}" in codes[5]["captions"]
    code, _, error = here(capsys, monkeypatch, *arguments, "--limit=65")
    assert code == 2 and "samples" in error


def test_worker_processes_read_the_same(weights, pictures, tmp_path, capsys, monkeypatch):
    for name, workers in (("one", 0), ("two", 2)):
        more = (f"--num_workers={workers}", "--shard_size=4")
        assert here(capsys, monkeypatch, weights, pictures, tmp_path / name, *more)[0] == 0
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


@pytest.mark.parametrize("samples, size, batch", [(11, 4, 3), (8, 4, 4), (5, 9, 2), (3, 1, 8)])
def test_batches_stay_within_their_shard(samples, size, batch, tmp_path):
    source = open_source(
        data_config(
            str(make_images(tmp_path / "in", samples)), image_size=(16, 16), context_length=8
        )
    )
    data = data_config("photos", image_size=(16, 16), context_length=8, num_threads=2)
    numbers = list(range(-(-samples // size)))
    reader = ShardedViews(source, numbers, size, batch, (16, 16), "center", 1.0)
    batches, found = list(reader.stream(data)), []
    assert len(batches) == sum(map(reader.batches, numbers))
    for number in numbers:
        begin = sum(map(reader.batches, numbers[:number]))
        rows = [f for b in batches[begin : begin + reader.batches(number)] for f in b["facts"]]
        found.append([row["name"] for row in rows if row is not None])
        assert len(rows) % batch == 0 and len(found[-1]) == reader.samples(number)
    assert sum(found, []) == [source[i]["name"] for i in range(samples)]


@pytest.fixture(scope="module")
def sixty(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("sixty") / "in", 60, (20, 24))


@pytest.fixture(scope="module")
def undisturbed(weights, sixty, tmp_path_factory):
    """hashes of what an undisturbed process with one device wrote."""
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    code, _, error = run(command(weights, sixty, output, "--shard_size=3"))
    assert code == 0, error
    return hashes(output)


@pytest.mark.long
def test_killed_three_times(weights, sixty, undisturbed, tmp_path, capsys, monkeypatch):
    """Random moments of the writing: before the first shard, between two, within the last."""
    rng, output, killed = random.Random(0), tmp_path / "out", 0
    arguments = command(weights, sixty, output, "--shard_size=3")
    for least in (0, 4, 11):
        wanted = least + rng.randrange(4)
        process = start(arguments)
        killed += kill_when(process, lambda n=wanted: len(shards(output)) >= n and output.exists())
        assert not (output / "manifest.json").exists()
        if output.exists() and (output / "settings.json").exists():
            with pytest.raises(ValueError, match="not finished.*same command"):
                unitok_jax.open_codes(output)
    assert killed == 3 and 0 < len(shards(output)) < 20
    before = {name: (output / name).stat().st_mtime_ns for name in shards(output)}
    code, printed, error = run(arguments)
    assert code == 0, error
    assert hashes(output) == undisturbed
    assert all((output / name).stat().st_mtime_ns == time for name, time in before.items())
    code, printed, _ = here(capsys, monkeypatch, weights, sixty, output, "--shard_size=3")
    assert (code, printed) == (0, f"{output} is finished: nothing to do\n")


@pytest.mark.long
def test_interrupted_and_continued(weights, sixty, undisturbed, tmp_path):
    """By Ctrl-C, which a terminal sends to the worker processes as well."""
    output = tmp_path / "out"
    arguments = command(weights, sixty, output, "--shard_size=3", "--num_workers=2")
    process = start(arguments, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(shards(output)) < 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGINT)
    printed, error = process.communicate(timeout=120)
    assert (printed, error) == ("", "interrupted; the same command continues\n")
    assert process.returncode == 130 and 4 <= len(shards(output)) < 20
    before = {name: (output / name).stat().st_mtime_ns for name in shards(output)}
    code, printed, error = run(arguments)
    assert code == 0 and "codes of 60 samples in 20 files" in printed, error
    assert hashes(output) == undisturbed
    assert all((output / name).stat().st_mtime_ns == then for name, then in before.items())


@pytest.mark.long
def test_two_processes_share_the_work(weights, sixty, undisturbed, tmp_path):
    output, port = tmp_path / "out", free_port()
    job = [f"--coordinator=127.0.0.1:{port}", "--processes=2"]
    each = [
        command(weights, sixty, output, "--shard_size=3", *job, f"--process={i}") for i in range(2)
    ]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        ended = list(pool.map(lambda arguments: run_on_terminal(arguments, devices=2), each))
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert all("codes of 60 samples in 20 files" in printed for _, printed, _ in ended)
    assert hashes(output) == undisturbed
    # each did its half
    assert all("30.0/30.0" in bar for _, _, bar in ended), ended


def run_on_terminal(arguments, devices):
    """Exit code, what is printed, and what a terminal shows of the rest."""
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (24, 100))
    process = start(arguments, devices, stderr=slave)
    os.close(slave)
    shown = []
    with contextlib.suppress(OSError):  # the other end is closed
        while part := os.read(master, 1024):
            shown.append(part)
    os.close(master)
    return process.wait(timeout=300), process.stdout.read(), b"".join(shown).decode()


def test_the_same_command_twice_at_once(weights, sixty, undisturbed, tmp_path):
    arguments = command(weights, sixty, tmp_path / "out", "--shard_size=3")
    processes = [start(arguments) for _ in range(2)]
    ended = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    assert hashes(tmp_path / "out") == undisturbed


def test_eight_devices_write_the_bytes_of_one(
    weights, sixty, undisturbed, tmp_path, capsys, monkeypatch
):
    assert jax.local_device_count() == 8
    assert here(capsys, monkeypatch, weights, sixty, tmp_path / "out", "--shard_size=3")[0] == 0
    assert hashes(tmp_path / "out") == undisturbed


class TestBadInput:
    def test_bad_images_are_left_out_and_told(self, weights, tmp_path, capsys, monkeypatch):
        folder, output = make_images(tmp_path / "in", 8), tmp_path / "out"
        (folder / "0002.png").write_bytes(b"")
        (folder / "0005.png").write_bytes((folder / "0005.png").read_bytes()[:100])
        call = (capsys, monkeypatch, weights, folder, output, "--shard_size=3")
        code, _, error = here(*call)
        assert code == 2 and "2 of 8 samples cannot be used, more than --max_bad=0" in error
        assert "1 empty: 0002.png" in error and "1 damaged: 0005.png" in error
        assert not (output / "manifest.json").exists()
        written = {name: digest for name, digest in hashes(output).items() if name[0] == "0"}
        code, printed, error = here(*call, "--max_bad=0.25")
        assert code == 0 and "codes of 6 samples in 3 files" in printed
        assert error.startswith("2 left out:\n  1 empty")
        assert {n: d for n, d in hashes(output).items() if n[0] == "0"} == written
        codes = unitok_jax.open_codes(output)
        assert [record["key"][:4] for record in codes] == [f"{i:04}" for i in (0, 1, 3, 4, 6, 7)]
        assert codes.manifest["skipped"]["empty"]["count"] == 1

    def test_a_disk_that_is_away_for_long(
        self, weights, sixty, undisturbed, tmp_path, capsys, monkeypatch
    ):
        """Nothing that it hides is written as bad: the same command finishes it later."""
        output = tmp_path / "out"
        call = (capsys, monkeypatch, weights, sixty, output, "--shard_size=3", "--max_bad=0.5")
        with monkeypatch.context() as patch:
            disks.stumble(patch, "0031.png", disks.NEVER)
            code, _, error = here(*call)
        assert code == 1 and "0031.png" in error and "Input/output error" in error
        assert len(list(output.glob("0*.json"))) < 20
        code, _, error = here(*call)
        assert code == 0, error
        assert hashes(output) == undisturbed
        with monkeypatch.context() as patch:  # of another source, a probe of the settings
            disks.stumble(patch, "0000.png", disks.NEVER)
            code, _, error = here(*call)
            assert code == 1 and "0000.png" in error and "before" not in error

    @pytest.mark.parametrize("size", [2, 20])
    def test_a_key_twice(self, weights, tmp_path, capsys, monkeypatch, size):
        """Within one shard, and in two."""
        first, second = (make_images(tmp_path / f"in{i}", 5, start=3 * i) for i in range(2))
        outs = []
        for folder in (first, second):
            packed = tmp_path / f"packed_{folder.name}"
            pack(folder, packed)
            outs.append(packed)
        pattern, output = f"array_record:{tmp_path}/packed_*", tmp_path / "out"
        more = (f"--shard_size={size}",)
        code, _, error = here(capsys, monkeypatch, weights, pattern, output, *more)
        assert code == 2 and "the key '0003.png' comes twice" in error and "folder" in error
        assert not (output / "manifest.json").exists()
        where = "in 000001.array_record and 000002.array_record" if size == 2 else "in 000000.array"
        assert where in error

    def test_other_settings_or_another_tokenizer(
        self, weights, tokenizer, pictures, tmp_path, capsys, monkeypatch
    ):
        call = (capsys, monkeypatch)
        assert here(*call, weights, pictures, tmp_path / "out")[0] == 0
        before = hashes(tmp_path / "out")
        more = ("--views=ten", "--shard_size=5", "--size=32", "--precision=bfloat16")
        code, _, error = here(*call, weights, pictures, tmp_path / "out", *more)
        assert code == 2 and "--views: 'center' before, 'ten' now" in error
        assert "--shard_size: 10000 before, 5 now" in error and "--size: 64 before, 32 now" in error
        assert "precision: 'float32' before, 'bfloat16' now" in error and "another folder" in error
        other = other_weights(tokenizer, tmp_path)
        code, _, error = here(*call, other, pictures, tmp_path / "out")
        assert code == 2 and f"tokenizer: '{tokenizer.hash}' before, '" in error
        assert hashes(tmp_path / "out") == before

    def test_strangers_folder(self, weights, pictures, tmp_path, capsys, monkeypatch):
        (tmp_path / "thesis.tex").write_text("x")
        code, _, error = here(capsys, monkeypatch, weights, pictures, tmp_path)
        assert code == 2 and "is not empty (thesis.tex)" in error
        assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]
        code, _, error = here(capsys, monkeypatch, weights, pictures, tmp_path / "thesis.tex")
        assert code == 2 and "thesis.tex is not a folder" in error

    def test_unwritable_output(self, weights, pictures, tmp_path, capsys, monkeypatch):
        target = "/proc/codes"  # where not even root may write
        code, _, error = here(capsys, monkeypatch, weights, pictures, target)
        assert code == 2 and error.startswith("error: ") and target in error

    @pytest.mark.parametrize("storage", ["array_record", "parquet"])
    def test_full_disk(self, weights, pictures, tmp_path, capsys, monkeypatch, storage):
        """A limit of file sizes stands in for it: both end in a failed write."""
        more = (f"--format={storage}", "--views=ten")
        arguments = command(weights, pictures, tmp_path / "out", *more)
        process = start(["bash", "-c", 'ulimit -f 4; exec "$@"', "bash", *arguments])
        error = process.communicate(timeout=200)[1]
        assert process.returncode == 2 and "Traceback" not in error, error
        assert "error: " in error and "File too large" in error
        assert f"{tmp_path}/out/000000.{storage}" in error
        assert [file.name for file in (tmp_path / "out").iterdir()] == ["settings.json"]
        again = (capsys, monkeypatch, weights, pictures, tmp_path / "out", *more)
        assert here(*again)[0] == 0 and len(unitok_jax.open_codes(tmp_path / "out")) == 11

    def test_what_was_replaced_or_damaged_is_written_again(
        self, weights, pictures, tmp_path, capsys, monkeypatch
    ):
        call, output = (capsys, monkeypatch, weights, pictures), tmp_path / "out"
        assert here(*call, output, "--shard_size=2")[0] == 0
        before = hashes(output)
        facts = json.loads((output / "000001.json").read_text())
        assert facts["precision"] == "float32"
        (output / "000001.json").write_text(json.dumps({**facts, "tokenizer": "0" * 32}))
        facts = json.loads((output / "000005.json").read_text())
        (output / "000005.json").write_text(json.dumps({**facts, "precision": "bfloat16"}))
        os.truncate(output / "000002.array_record", 100)
        os.truncate(output / "000003.json", 20)
        os.truncate(output / "000004.keys", 8)
        (output / f"000000.array_record.0123456789ab{PARTIAL}").write_bytes(b"half")
        assert here(*call, output, "--shard_size=2")[0] == 0
        assert hashes(output) == before
        os.truncate(output / "manifest.json", 20)
        assert here(*call, output, "--shard_size=2")[0] == 0
        assert hashes(output) == before

    @pytest.mark.parametrize(
        "more, words",
        [
            (["--limit=0"], "--limit=0 must be at least 1"),
            (["--shard_size=0"], "--shard_size=0"),
            (["--crop_scale=0.5", "--views=ten"], "--crop_scale=0.5"),
            (["--size=60"], "--size"),
            (["--size=big"], "--size=big"),
            (["--max_bad=2"], "--max_bad=2"),
            (["--batch_size=3"], "batch_size=3"),
            (["--data=/none"], "/none"),
            (["--checkpoint=/none"], "/none"),
        ],
    )
    def test_arguments(self, weights, pictures, tmp_path, capsys, monkeypatch, more, words):
        code, _, error = here(capsys, monkeypatch, weights, pictures, tmp_path / "out", *more)
        assert code == 2 and error.startswith("error: ") and words in error
        assert not (tmp_path / "out").exists()


def test_codebooks_of_more_rows_than_16_bits_name():
    from unitok_jax.data.codes.shards import plan

    with pytest.raises(ValueError, match="65537 rows.*65536"):
        plan(
            open_source(data_config("photos", image_size=(16, 16), context_length=8)),
            data_config("photos", image_size=(16, 16), context_length=8),
            storage="parquet",
            shard_size=1,
            views="center",
            crop_scale=1.0,
            tokenizer={"codebook_size": 2**16 + 1},
        )


def test_help_is_a_process():
    code, printed, _ = run([*command("x", "x", "x")[:4], "--help"])
    assert code == 0 and "--views" in printed and "--coordinator" in printed


def pack(folder, output):
    from helpers.formats import config
    from unitok_jax.data.writing.folders import claim
    from unitok_jax.data.writing.packing import pack as write
    from unitok_jax.data.writing.packing import plan

    data = config("folder", folder, mixture=())
    source = open_source(data)
    settings = plan(data, source, shard_size=100, check=False, require_captions=True)
    claim(output, settings, "pack")
    write(source, settings, output, workers=1, max_bad=0.0)
