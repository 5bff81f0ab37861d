"""Parquet files with images, as others write them."""

import collections
import os
import pickle
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from helpers.formats import config, damaged, jpeg, take
from unitok_jax.data.formats import parquet_groups
from unitok_jax.data.formats.parquet import KEPT_WINDOWS, ParquetSource
from unitok_jax.data.health import SampleError
from unitok_jax.data.pipeline import train_batches
from unitok_jax.data.sources import open_source

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path, columns, group=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path, row_group_size=group)
    return path


def hugging_face(indices, image="image", caption="text"):
    cells = [{"bytes": jpeg(i), "path": f"{i}.jpg"} for i in indices]
    return {
        image: pa.array(cells, STRUCT),
        caption: pa.array((f"picture {i}" for i in indices), pa.string()),
    }


def opened(path, require_captions=True, **values):
    data = config("parquet", path, **values)
    return open_source(data, require_captions=require_captions)


def captions(source):
    return [source[i]["captions"] for i in range(len(source))]


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "set/b.parquet", hugging_face(range(7, 12)))
    write(tmp_path / "set/a.parquet", hugging_face(range(7)))
    return tmp_path / "set"


def test_rows_in_order_and_blocks(folder):
    source = opened(folder)
    assert captions(source) == [(f"picture {i}",) for i in range(12)]
    assert [source[i]["image"] for i in range(12)] == [jpeg(i) for i in range(12)]
    assert source.blocks.tolist() == [3, 6, 7, 10, 12] and source.blocks.dtype == np.int64
    assert source[8]["name"] == f"{folder}/b.parquet, group 0, row 1"
    for index in (12, -1):
        with pytest.raises(IndexError, match="there are 0 to 11"):
            source[index]


def test_file_and_pattern(folder):
    assert captions(opened(folder / "b.parquet")) == [(f"picture {i}",) for i in range(7, 12)]
    assert len(opened(folder / "[a].*")) == 7


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
@pytest.mark.parametrize("column", ["jpg", "img", "png"])
def test_plain_bytes(tmp_path, column, kind):
    file = write(tmp_path / "a.parquet", {column: pa.array([jpeg(1)], kind), "caption": ["one"]})
    assert opened(file)[0]["image"] == jpeg(1)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([["one", " ", None, " two "]]),
        pa.array([["one", "two"]], pa.large_list(pa.large_string())),
    ],
)
def test_lists_of_captions(tmp_path, column):
    file = write(tmp_path / "a.parquet", {"jpg": [jpeg(1)], "captions": column})
    assert captions(opened(file)) == [("one", "two")]


def test_named_column_of_captions(tmp_path):
    columns = {"jpg": [jpeg(1)], "text": ["alt"], "caption": ["short"], "said": ["long"]}
    file = write(tmp_path / "a.parquet", columns)
    assert captions(opened(file, captions="said")) == [("long",)]
    with pytest.raises(ValueError, match="exactly one column of caption, text.*data.captions=COL"):
        opened(file)
    with pytest.raises(ValueError, match="data.captions=none is no column of .*: jpg, text"):
        opened(file, captions="none")


def test_without_captions(tmp_path):
    file = write(tmp_path / "a.parquet", {"jpg": [jpeg(1)]})
    assert captions(opened(file, require_captions=False)) == [()]
    with pytest.raises(ValueError, match="exactly one column of caption, text"):
        opened(file)


@pytest.mark.parametrize("workers", [0, 1])
def test_trains(folder, workers):
    (batch,) = take(train_batches(config("parquet", folder, num_workers=workers), 0), 1)
    assert batch["image"].shape == (4, 16, 16, 3) and batch["text"].any(axis=1).all()


def test_source_survives_pickling_after_reading(folder):
    source = opened(folder)
    source[0]
    assert captions(pickle.loads(pickle.dumps(source))) == captions(source)


def test_threads_read_every_group_once(folder, monkeypatch):
    source = opened(folder, window=3)
    read = []
    original = source._read
    monkeypatch.setattr(source, "_read", lambda *where: read.append(where) or original(*where))
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(12), 20)).tolist()
    with ThreadPoolExecutor(8) as executor:
        found = list(executor.map(lambda i: source[i]["captions"], order))
    assert found == [(f"picture {i}",) for i in order]
    assert len(read) == len(set(read)) == 5 < 3 * KEPT_WINDOWS


def test_training_reads_every_group_once_in_an_epoch(tmp_path, monkeypatch):
    """Threads that are at the end of a window do not lose its groups to those that are beyond."""
    write(tmp_path / "a.parquet", hugging_face(range(800)), group=20)
    data = config("parquet", tmp_path, window=5, num_threads=8, batch_size=40)
    reads, original = collections.Counter(), ParquetSource._read

    def read(source, file, group, count):
        reads[group] += 1
        return original(source, file, group, count)

    monkeypatch.setattr(ParquetSource, "_read", read)
    take(train_batches(data, 0), 37)  # two epochs, but for what is read ahead
    assert set(reads) == set(range(40)) and max(reads.values()) == 2
    assert sum(reads.values()) >= 65  # the first of an epoch may be kept from the one before


def test_kept_groups_are_bounded(tmp_path):
    source = opened(write(tmp_path / "a.parquet", hugging_face(range(20)), group=1), window=2)
    captions(source)
    assert len(source._cache) == 2 * KEPT_WINDOWS


class TestFoldersAsTheyLieOnDisks:
    def test_what_is_hidden_is_passed_over(self, folder):
        for name in ("._a.parquet", "_SUCCESS", "_metadata", "_common_metadata", "b.parquet.crc"):
            (folder / name).write_bytes(b"\0\5\x16\7junk")
        for name in (".cache", "_temporary", "_delta_log"):
            (folder / name).mkdir()
            (folder / name / "x.parquet").write_bytes(b"half")
        assert captions(opened(folder)) == captions(opened(folder / "*.parquet"))
        assert len(opened(folder)) == 12

    def test_folder_that_is_called_as_a_file(self, folder):
        write(folder / "c.parquet/part-0.snappy.parquet", hugging_face(range(12, 15)))
        (folder / "c.parquet/_SUCCESS").touch()
        (folder / "empty.parquet").mkdir()
        expected = [(f"picture {i}",) for i in range(15)]
        assert captions(opened(folder)) == captions(opened(folder / "*.parquet")) == expected
        assert captions(opened(folder / "c.parquet")) == expected[12:]

    def test_links(self, folder, tmp_path):
        (tmp_path / "links").mkdir()
        (tmp_path / "links" / "a.parquet").symlink_to(folder / "a.parquet")
        (tmp_path / "links" / "deep").symlink_to(folder)
        (tmp_path / "links" / "again").symlink_to(tmp_path / "links")
        assert len(opened(tmp_path / "links")) == 7 + 12

    @pytest.mark.parametrize("path", ["", "p.parquet", "*.parquet"])
    def test_what_is_no_file(self, folder, path):
        os.mkfifo(folder / "p.parquet")
        with pytest.raises(ValueError, match="set/p.parquet is a pipe, a device or a socket; sh"):
            opened(folder / path)

    def test_link_that_leads_nowhere(self, folder):
        (folder / "c.parquet").symlink_to("none")
        with pytest.raises(FileNotFoundError, match="set/c.parquet is a link that leads nowhere"):
            opened(folder)


def repeated(values, indices, lists=None):
    """A column whose file holds each value once; `lists` are the ends of lists of them."""
    column = pa.DictionaryArray.from_arrays(pa.array(indices, pa.int32()), pa.array(values))
    if lists is None:
        return column
    return pa.ListArray.from_arrays(pa.array([0, *lists], pa.int32()), column)


class TestBombs:
    """Small files of large contents."""

    def write(self, path, **columns):
        parquet.write_table(pa.table(columns), path, store_schema=False)
        return path

    def test_image_that_repeats(self, tmp_path, monkeypatch):
        monkeypatch.setattr(parquet_groups, "MAX_BYTES", 30_000_000)
        image = repeated([b"x" * 10**6], [0] * 100)
        path = self.write(tmp_path / "a.parquet", image=image, text=["x"] * 100)
        assert path.stat().st_size < 10**5
        with pytest.raises(SampleError, match="a.parquet, group 0: its columns unpack to more th"):
            opened(path)[0]

    def test_captions_that_repeat_are_stored_once(self, tmp_path):
        text, ends = "y" * 10**6, [3, 3 + 10**5, 3 + 10**5 + 17]
        column = repeated([text, "a"], [1, 0, 1] + [0] * (10**5 + 17), ends)
        path = self.write(tmp_path / "a.parquet", image=[b"x"] * 3, texts=column)
        assert path.stat().st_size < 10**6
        source = opened(path)
        assert source[0]["captions"] == ("a", text, "a")
        for row, message in ((1, "100000 texts, more than 1000"), (2, "of 17000000 characters")):
            with pytest.raises(SampleError, match=message) as error:
                source[row]
            assert error.value.reason == "bad_caption"

    @pytest.mark.parametrize("limit", ["MAX_ROWS", "MAX_BYTES"])
    def test_more_than_is_read(self, folder, monkeypatch, limit):
        monkeypatch.setattr(parquet_groups, limit, 2)
        with pytest.raises(ValueError, match="^/.*parquet: row group 0 states 3 rows of .* write"):
            opened(folder)

    def test_groups_that_grow_under_a_run(self, folder, monkeypatch):
        source = opened(folder)
        monkeypatch.setattr(parquet_groups, "MAX_BYTES", 2)
        with pytest.raises(SampleError, match="group 0: row group 0 states"):
            source[0]


def test_damage_ends_in_errors_of_ours(tmp_path):
    chance, seen = random.Random(0), collections.Counter()
    path = write(tmp_path / "a.parquet", hugging_face(range(6)))
    whole = path.read_bytes()
    end = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for turn in range(200):  # in the second half, at its end alone, which states everything
        begin = end if turn >= 100 else 0
        path.write_bytes(whole[:begin] + damaged(whole[begin:], chance))
        try:
            source = opened(path)
            for index in range(len(source)):
                try:
                    seen[type(source[index]).__name__] += 1
                except SampleError:
                    seen["SampleError"] += 1
        except (ValueError, OSError) as error:
            seen["open"] += 1
            assert "a.parquet" in str(error) and "\n" not in str(error)
    assert seen["open"] > 20 and seen["dict"] > 100


class TestBadInput:
    def test_nothing_there(self, tmp_path):
        with pytest.raises(ValueError, match="data.path is empty"):
            opened("")
        with pytest.raises(FileNotFoundError, match="there is no such file and no such folder"):
            opened(tmp_path / "none")
        with pytest.raises(ValueError, match="data.path=.* holds no .parquet files"):
            opened(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"hello", b"PAR1" + 50 * b"x" + b"PAR1"])
    def test_file_that_is_not_parquet(self, folder, content):
        (folder / "c.parquet").write_bytes(content)
        with pytest.raises(ValueError, match="c.parquet is not a Parquet file, or not whole"):
            opened(folder)

    def test_truncated_file(self, folder):
        content = (folder / "a.parquet").read_bytes()
        (folder / "a.parquet").write_bytes(content[:-20])
        with pytest.raises(ValueError, match="a.parquet is not a Parquet file, or not whole"):
            opened(folder)

    def test_no_rows(self, tmp_path):
        file = write(tmp_path / "a.parquet", hugging_face([]))
        with pytest.raises(ValueError, match="data.path=.* holds no rows"):
            opened(file)

    def test_files_of_different_kinds(self, folder):
        cells = pa.array([jpeg(1)])
        write(folder / "c.parquet", {"image": cells, "text": ["x"]})
        message = "column 'image' is binary in .*c.parquet and struct<.*> in .*a.parquet"
        with pytest.raises(ValueError, match=message):
            opened(folder)
        write(folder / "c.parquet", hugging_face([1], caption="words"))
        with pytest.raises(ValueError, match="column 'text' is absent in .*c.parquet and string"):
            opened(folder)

    @pytest.mark.parametrize(
        "columns, message",
        [
            ({"picture": [b"x"], "text": ["x"]}, "exactly one column of image, .*are picture, te"),
            ({"image": [b"x"], "jpg": [b"x"], "text": ["x"]}, "exactly one column of image"),
            ({"image": ["a.jpg"], "text": ["x"]}, "column 'image' is string; images are read as"),
            ({"image": [b"x"], "text": [3]}, "column 'text' is int64; captions are strings or"),
        ],
    )
    def test_columns_of_another_kind(self, tmp_path, columns, message):
        with pytest.raises(ValueError, match=message):
            opened(write(tmp_path / "a.parquet", columns))

    @pytest.mark.parametrize(
        "cell, caption, reason",
        [
            (None, "x", "empty"),
            ({"bytes": b"", "path": "a.jpg"}, "x", "empty"),
            ({"bytes": None, "path": "a.jpg"}, "x", "no_image"),
            ({"bytes": b"x", "path": None}, None, "no_caption"),
            ({"bytes": b"x", "path": None}, "  ", "no_caption"),
        ],
    )
    def test_rows_without_something(self, tmp_path, cell, caption, reason):
        columns = {"image": pa.array([cell], STRUCT), "text": pa.array([caption], pa.string())}
        source = opened(write(tmp_path / "a.parquet", columns))
        with pytest.raises(SampleError, match="a.parquet, group 0, row 0") as caught:
            source[0]
        assert caught.value.reason == reason

    def test_path_instead_of_image_names_it(self, tmp_path):
        columns = {"image": pa.array([{"path": "a/b.jpg"}], STRUCT), "text": ["x"]}
        source = opened(write(tmp_path / "a.parquet", columns))
        with pytest.raises(SampleError, match="only the path 'a/b.jpg' .*embed_table_storage"):
            source[0]

    def test_path_that_is_not_utf8(self, tmp_path):
        path = pa.array([b"\xff.jpg"] * 2).view(pa.string())
        image = pa.array([jpeg(0), None], pa.binary())
        cells = pa.StructArray.from_arrays([image, path], ["bytes", "path"])
        source = opened(write(tmp_path / "a.parquet", {"image": cells, "text": ["x"] * 2}))
        assert source[0]["image"] == jpeg(0)
        with pytest.raises(SampleError, match="only the path '\ufffd.jpg' of its image"):
            source[1]

    def test_caption_that_is_not_utf8(self, tmp_path):
        text = pa.Array.from_buffers(pa.string(), 1, pa.array([b"caf\xe9"], pa.binary()).buffers())
        source = opened(write(tmp_path / "a.parquet", {"image": [b"x"], "text": text}))
        with pytest.raises(SampleError, match="row 0: caption is not UTF-8") as caught:
            source[0]
        assert caught.value.reason == "bad_caption"

    @pytest.mark.parametrize(
        "columns, group",
        [
            (hugging_face(range(6)), 2),
            (hugging_face(range(3)), 3),
            (hugging_face(range(6), caption="words"), 3),
            (hugging_face(range(6)) | {"text": range(6)}, 3),
        ],
    )
    def test_file_that_changes_under_a_run(self, tmp_path, columns, group):
        file = write(tmp_path / "a.parquet", hugging_face(range(6)))
        source = opened(file)
        write(file, columns, group)
        with pytest.raises(OSError, match="a.parquet has changed since it was opened"):
            source[5]

    @pytest.mark.parametrize("key", ["window", "num_threads"])
    def test_nothing_to_read_with(self, folder, key):
        with pytest.raises(ValueError, match=f"data.{key}=0 must be at least 1"):
            opened(folder, **{key: 0})

    def test_damaged_row_group(self, tmp_path):
        file = write(tmp_path / "a.parquet", hugging_face(range(6)))
        content = bytearray(file.read_bytes())
        at = parquet.read_metadata(file).row_group(0).column(0).data_page_offset
        content[at : at + 40] = b"\xff" * 40
        file.write_bytes(content)
        source = opened(file)
        with pytest.raises((SampleError, OSError)):
            source[0]
        assert source[3]["captions"] == ("picture 3",)
