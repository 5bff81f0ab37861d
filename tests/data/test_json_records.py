"""JSON objects by position, of files of any shape."""

import json
import pickle

import pytest

from unitok_jax.data.formats.json_records import json_records
from unitok_jax.data.health import SampleError


def opened(tmp_path, content, name="a.jsonl"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return json_records(str(path), "data.path")


class TestLines:
    @pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n"])
    def test_by_position(self, tmp_path, end):
        lines = [json.dumps({"n": n, "text": "ü" * n}, ensure_ascii=False) for n in range(5)]
        records = opened(tmp_path, "\n".join(lines) + end)
        assert [record["n"] for record in map(records.__getitem__, range(len(records)))] == [
            *range(5)
        ]
        assert records[3]["text"] == "üüü"
        assert pickle.loads(pickle.dumps(records))[4]["n"] == 4

    def test_empty_lines_are_no_records(self, tmp_path):
        assert len(opened(tmp_path, '\n{"a": 1}\n\r\n{"a": 2}\n')) == 2

    def test_lines_across_blocks(self, tmp_path, monkeypatch):
        monkeypatch.setattr("unitok_jax.data.formats.json_records._BLOCK", 7)
        records = opened(tmp_path, "".join(f'{{"n": {n}}}\n' for n in range(50)))
        assert [records[n]["n"] for n in range(len(records))] == [*range(50)]

    def test_a_bad_line_is_a_bad_sample_and_the_others_are_read(self, tmp_path):
        records = opened(tmp_path, b'{"a": 1}\n{"a"\n[1, 2]\n{"a": "\xff"}\n{"a": 2}')
        for index in (1, 2, 3):
            with pytest.raises(SampleError, match=f"a.jsonl, record {index + 1}: ") as caught:
                records[index]
            assert caught.value.reason == "bad_record"
        assert records[4] == {"a": 2}
        with pytest.raises(IndexError):
            records[5]

    def test_an_endless_line(self, tmp_path, monkeypatch):
        monkeypatch.setattr("unitok_jax.data.formats.json_records.MAX_LINE_BYTES", 100)
        with pytest.raises(SampleError, match="record 1 is longer than 100 bytes"):
            opened(tmp_path, json.dumps({"a": "b" * 200}))[0]


class TestLists:
    def test_by_position(self, tmp_path):
        records = opened(tmp_path, json.dumps([{"a": "ü"}, 3, {"a": 2}]), "a.json")
        assert len(records) == 3 and records[0] == {"a": "ü"} and records[2] == {"a": 2}
        with pytest.raises(SampleError, match="record 2.* expected a JSON object"):
            records[1]
        assert pickle.loads(pickle.dumps(records))[2] == {"a": 2}

    @pytest.mark.parametrize(
        "content, message",
        [
            ('{"a": 1}', "holds dict, not a list"),
            ("[{", "no JSON that can be read"),
            ("[]", "holds no records"),
            ("", "is empty"),
            ("[" * 10**6, "nested too deeply|no JSON"),
        ],
        ids=lambda value: value[:10],
    )
    def test_that_are_none(self, tmp_path, content, message):
        with pytest.raises(ValueError, match=f"data.path=.*{message}"):
            opened(tmp_path, content, "a.json")

    def test_too_large_to_be_read_as_a_whole(self, tmp_path, monkeypatch):
        monkeypatch.setattr("unitok_jax.data.formats.json_records.LIST_BYTES", 3)
        with pytest.raises(ValueError, match="5 bytes are read as a whole.*write a .jsonl file"):
            opened(tmp_path, "[{}, ", "a.json")


def test_no_file_and_other_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="data.path=.*does not exist"):
        json_records(str(tmp_path / "a.json"), "data.path")
    with pytest.raises(ValueError, match="give a .jsonl file"):
        json_records("a.txt", "data.path")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ValueError, match="is a folder, not a file"):
        json_records(str(tmp_path / "folder.json"), "data.path")
