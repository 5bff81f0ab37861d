"""Texts alone, of JSON and of Parquet."""

import json
import pickle

import pyarrow
import pytest
from pyarrow import parquet

from unitok_jax.data.formats.texts import text_source
from unitok_jax.data.health import SampleError


def opened(path, window=2):
    return text_source(str(path), "data.mixture[0]", window)


def lines(tmp_path, *records):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return opened(path)


def table(path, texts, column="text", rows=3, kind=None):
    columns = {column: pyarrow.array(texts, kind or pyarrow.string())}
    parquet.write_table(pyarrow.table(columns), path, row_group_size=rows)
    return path


def test_lines(tmp_path):
    texts = lines(tmp_path, {"text": "one", "id": 1}, {"content": "two"})
    assert [texts[0], texts[1]] == ["one", "two"]


@pytest.mark.parametrize(
    "record, reason",
    [
        ({"words": "one"}, "bad_record"),
        ({"text": 3}, "bad_record"),
        ({"text": "a", "content": "b"}, "bad_record"),
        ({"text": " \n"}, "no_text"),
    ],
)
def test_lines_that_are_no_texts(tmp_path, record, reason):
    with pytest.raises(SampleError, match="a.jsonl, record 1") as caught:
        lines(tmp_path, record)[0]
    assert caught.value.reason == reason


class TestParquet:
    def test_a_folder_of_row_groups(self, tmp_path):
        table(tmp_path / "a.parquet", [f"a {n}" for n in range(7)])
        table(tmp_path / "b.parquet", [f"b {n}" for n in range(2)], "content")
        texts = opened(tmp_path)
        assert texts.blocks.tolist() == [3, 6, 7, 9]
        found = [texts[n] for n in range(len(texts))]
        assert found == [f"a {n}" for n in range(7)] + ["b 0", "b 1"]
        assert pickle.loads(pickle.dumps(texts))[8] == "b 1"

    def test_nulls_and_damage(self, tmp_path):
        path = table(tmp_path / "a.parquet", ["a", None, "c"])
        with pytest.raises(SampleError, match="a.parquet, group 0, row 1: the text is empty"):
            opened(path)[1]
        texts = opened(path)
        content = bytearray(path.read_bytes())
        content[4:40] = bytes(36)
        path.write_bytes(content)
        with pytest.raises((SampleError, OSError)):
            texts[0]

    @pytest.mark.parametrize(
        "column, kind, message",
        [
            ("words", None, "needs exactly one column of text, content .* are words"),
            ("text", pyarrow.list_(pyarrow.string()), "column 'text' is list"),
        ],
    )
    def test_other_columns(self, tmp_path, column, kind, message):
        value = ["a"] if kind is None else [["a"]]
        path = table(tmp_path / "a.parquet", value, column, kind=kind)
        with pytest.raises(ValueError, match=rf"data.mixture\[0\]=.*{message}"):
            opened(path)

    def test_no_files(self, tmp_path):
        with pytest.raises(ValueError, match="holds no .parquet files"):
            opened(tmp_path)
        with pytest.raises(FileNotFoundError, match="there is no such file"):
            opened(tmp_path / "none")
        with pytest.raises(ValueError, match="holds no rows"):
            opened(table(tmp_path / "a.parquet", []))
