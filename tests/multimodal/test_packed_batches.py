"""Batches of packed rows: their place in the stream, their parts, and what is left out."""

import collections
import contextlib
import errno
import json

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from helpers import language_tokenizers, sequences
from helpers.sequences import CODES, TOKENS, codes_of, data
from unitok_jax.checkpoints import differences
from unitok_jax.data import patience
from unitok_jax.data.formats.shapes import TrainingShapes
from unitok_jax.data.health import SampleError, TooManyBadSamples
from unitok_jax.data.identity import order_facts
from unitok_jax.multimodal import data as multimodal_data
from unitok_jax.multimodal.words import shape_tokenizer

TOKENIZER = shape_tokenizer()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(sequences.shapes(tmp_path_factory.mktemp("codes") / "shapes", 24, codes=codes_of))


@pytest.fixture
def section(folder):
    kinds = ((0.45, "draw"), (0.25, "caption"), (0.3, "questions"))
    return data(*((weight, kind, folder) for weight, kind in kinds))


def batches(section, count, *, rows=None, start=0, seed=0):
    """So many batches, and the counts of their health."""
    packed = multimodal_data.open_data(section, TOKENIZER, CODES)
    opened = packed.batches(section, seed, start_step=start, rows=rows)
    with contextlib.closing(opened):
        return [next(opened) for _ in range(count)], opened.health.new_counts()


def same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        np.testing.assert_array_equal(value, other[key], err_msg=key)


class TestTheStream:
    def test_shapes(self, section):
        (batch,), _ = batches(section, 1)
        images = 128 // (TOKENS + 2)
        assert {key: value.shape for key, value in batch.items()} == {
            **dict.fromkeys(
                ("ids", "image_at", "labels", "segments", "positions", "kinds"), (8, 128)
            ),
            "codes": (8, images, *CODES.shape),
            "drawn": (8, images),
        }

    @pytest.mark.parametrize("rows", [range(0, 8, 2), range(3, 6)], ids=str)
    def test_a_process_reads_rows_of_the_global_batch(self, section, rows):
        whole, _ = batches(section, 3)
        part, _ = batches(section, 3, rows=rows)
        for all_rows, own in zip(whole, part, strict=True):
            same(own, {key: value[list(rows)] for key, value in all_rows.items()})

    def test_counts_of_all_processes_are_those_of_one(self, section):
        whole = batches(section, 3)[1]
        parts = collections.Counter()
        for first in (0, 3):
            rows = range(first, (3, 8)[first > 0])
            parts.update(batches(section, 3, rows=rows)[1])
        assert parts == whole and whole["places"] == 3 * 8 * 128

    def test_any_step_without_those_before(self, section):
        whole, _ = batches(section, 5)
        for batch, later in zip(whole[3:], batches(section, 2, start=3)[0], strict=True):
            same(batch, later)

    def test_threads_change_nothing_and_seeds_do(self, section):
        one, _ = batches(section, 4)
        section.num_threads = 4
        for batch, threaded in zip(one, batches(section, 4)[0], strict=True):
            same(batch, threaded)
        assert (batches(section, 1, seed=1)[0][0]["ids"] != one[0]["ids"]).any()

    def test_no_two_readings_of_a_picture_are_the_same(self, folder):
        section = data((1.0, "questions", folder))
        found, _ = batches(section, 6)
        said = collections.defaultdict(set)
        for batch in found:
            for row in range(8):
                for segment in range(1, batch["segments"][row].max() + 1):
                    here = batch["segments"][row] == segment
                    image = batch["image_at"][row][here].max() // TOKENS
                    ids = batch["ids"][row][here].tolist()
                    said[batch["codes"][row, image, 0, 0]].add(tuple(ids))
        assert np.mean([len(texts) for texts in said.values()]) > 3

    def test_each_picture_once_an_epoch_if_all_find_room(self, tmp_path):
        folder = sequences.shapes(tmp_path / "codes", 16, codes=codes_of)
        section = data((1.0, "caption", str(folder)), group_samples=8, length=512)
        found, counts = batches(section, 4)
        epochs = []
        for batch in found:  # of two groups of eight samples
            image = np.unique(batch["image_at"] // TOKENS + 100 * np.arange(8)[:, None])
            here = [divmod(number, 100) for number in image if number % 100 < 99]
            epochs.append([int(batch["codes"][row, n, 0, 0]) for row, n in here])
        assert [sorted(epoch) for epoch in epochs] == [[*range(16)]] * 4
        assert "left_out/no_room" not in counts

    @pytest.mark.slow
    def test_worker_processes_change_nothing(self, section):
        one, counts = batches(section, 3)
        section.num_workers = 2
        others, others_counts = batches(section, 3)
        for batch, other in zip(one, others, strict=True):
            same(batch, other)
        assert counts == others_counts


class TestTheMixture:
    def test_weights_are_shares_of_samples(self, section):
        _, counts = batches(section, 20)
        found = np.array([counts[f"part/{number}"] for number in range(3)])
        assert found.sum() == counts["samples"] > 400
        assert (abs(found / found.sum() - [0.45, 0.25, 0.3]) < 0.02).all()

    def test_what_the_rows_hold_is_what_was_counted(self, section):
        section.group_samples = 20
        found, counts = batches(section, 5)
        segments = sum(int(batch["segments"].max(1).sum()) for batch in found)
        filled = sum(int((batch["segments"] > 0).sum()) for batch in found)
        assert (segments, filled) == (counts["samples"], counts["filled"])
        assert counts["samples"] + counts["left_out/no_room"] == 5 * 2 * section.group_samples
        drawn = sum(int(batch["drawn"].sum()) for batch in found)
        assert drawn == counts["part/0"]

    def test_rows_are_filled(self, section):
        section.update(length=256, group_samples=48)
        _, counts = batches(section, 10)
        assert counts["filled"] / counts["places"] > 0.94
        assert 0 < counts["left_out/no_room"] < 0.3 * counts["samples"]

    def test_every_image_keeps_its_codes_and_its_words(self, folder):
        """The codes tell the picture, whose captions the row must hold."""
        section = data((1.0, "caption", folder))
        (batch,), _ = batches(section, 1)
        for row in range(8):
            for segment in range(1, batch["segments"][row].max() + 1):
                here = batch["segments"][row] == segment
                image = batch["image_at"][row][here].max() // TOKENS
                number = batch["codes"][row, image, 0, 0]
                said = TOKENIZER.decode(batch["ids"][row][here & (batch["image_at"][row] < 0)])
                known = [
                    TOKENIZER.decode(TOKENIZER.encode(caption))
                    for picture in (number, number + 16)  # of 16 codes and 24 pictures
                    for caption in TrainingShapes()[int(picture)]["captions"]
                ]
                assert said in known


def chats(folder, texts):
    lines = [
        json.dumps({"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]})
        for q, a in texts
    ]
    file = folder / "chat.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return str(file)


class TestWhatCannotBeUsed:
    def test_is_replaced_and_counted(self, tmp_path):
        file = chats(tmp_path, [("what colour?", "red")] * 5 + [("what colour?", "")])
        section = data((1.0, "chat", file), max_bad=1.0)
        _, counts = batches(section, 1)
        assert counts["skipped/no_answer"] == 2 * section.group_samples / 6
        assert counts["samples"] == 2 * section.group_samples

    def test_ends_a_run_above_the_limit(self, tmp_path):
        file = chats(tmp_path, [("what colour?", "red"), ("what colour?", "")])
        with pytest.raises(TooManyBadSamples, match="data.max_bad=0.01"):
            batches(data((1.0, "chat", file)), 3)

    def test_a_long_one_is_left_out_without_being_bad(self, tmp_path):
        file = chats(tmp_path, [("what colour?", "red")] * 2 + [("colour " * 200, "red")])
        section = data((1.0, "chat", file), max_bad=0.0)
        found, counts = batches(section, 2)
        assert counts["left_out/too_long"] == 4 * section.group_samples / 3
        assert not any(key.startswith("skipped") for key in counts)
        assert counts["samples"] == 4 * section.group_samples
        assert sum(batch["segments"].max(1).sum() for batch in found) == counts["samples"]

    def test_nothing_that_fits_is_an_error(self, tmp_path):
        file = chats(tmp_path, [("colour " * 200, "red")] * 3)
        with pytest.raises(SampleError, match="3 samples in a row .* data.length=128"):
            batches(data((1.0, "chat", file)), 1)


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"length": 9}, "data.length=9 holds no image of 6 tokens .* at least 10"),
        ({"length": 0}, "data.length=0 must be at least 1"),
        ({"group_rows": 0}, "data.group_rows=0 must be at least 1"),
        ({"group_samples": 0}, "data.group_samples=0 must be at least 1"),
        ({"caption_ids": 0}, "data.caption_ids=0 must be at least 1"),
        ({"questions": 0}, "data.questions=0 must be at least 1"),
        ({"images": -1}, "data.images=-1 must be at least 1, or 0"),
        ({"unconditional": 1.5}, "data.unconditional=1.5 is a share"),
        ({"template": "alpaca"}, "data.template='alpaca' is not one of vicuna"),
        ({"template": "llama3"}, "data.template=llama3: the tokenizer has no <.start_header_id"),
        ({"max_bad": 2.0}, "data.max_bad=2.0 is a share"),
        ({"num_threads": 0}, "data.num_threads=0 must be at least 1"),
    ],
    ids=str,
)
def test_keys_that_do_not_fit(section, keys, message):
    section.update(keys)
    with pytest.raises(ValueError, match=message):
        batches(section, 1)


def test_the_tokenizer_of_the_text(tmp_path):
    assert multimodal_data.open_text("shapes").hash == TOKENIZER.hash
    for name, content in language_tokenizers.llama2().items():
        (tmp_path / name).write_bytes(content)
    found = multimodal_data.open_text(str(tmp_path))
    assert found.special.boi == found.id_of("<0x00>")
    named = {"bos": 1, "eos": 2, "pad": 0, "boi": 5, "eoi": 6}
    (tmp_path / "special_ids.json").write_text(json.dumps(named))
    assert multimodal_data.open_text(str(tmp_path)).special._asdict() == named
    for path, message in (
        ("", "data.text is empty"),
        ("none", "data.text=none: none is no folder"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            multimodal_data.open_text(path)


def test_a_disk_that_stumbles_changes_nothing(section, monkeypatch):
    """Not even if each sample fails once after its draws."""
    expected, _ = batches(section, 2)
    monkeypatch.setattr(patience, "PAUSES", (0.0,))
    parts, failed = multimodal_data.open_data(section, TOKENIZER, CODES).mixture.parts, set()
    for kind in {type(part) for part in parts}:

        def stumbling(self, index, rng, kind=kind, sample=kind.sample):
            found = sample(self, index, rng)
            if (kind, index) not in failed:
                failed.add((kind, index))
                raise OSError(errno.ESTALE, "stale")
            return found

        monkeypatch.setattr(kind, "sample", stumbling)
    found, counts = batches(section, 2)
    for batch, undisturbed in zip(found, expected, strict=True):
        same(batch, undisturbed)
    assert len(failed) > 12 and not [name for name in counts if name.startswith("skipped")]


def test_facts_change_with_what_the_position_means(section, tmp_path):
    def facts(**keys):
        section.update(keys)
        return multimodal_data.open_data(section, TOKENIZER, CODES).facts

    first = facts()
    json.dumps(first)
    assert facts() == first
    assert first["tokenizer of the codes"] == "a" * 32
    other = str(sequences.shapes(tmp_path / "codes", 24, codes=lambda i: codes_of(i + 1)))
    mixture = tuple((*entry[:2], other) for entry in section.mixture)
    changes = {"group_samples": 13}, {"length": 127}, {"group_rows": 2}, {"images": 3}
    for keys in (*changes, {"mixture": mixture}):
        before = facts()
        assert facts(**keys) != before


def test_a_length_and_a_weight_are_told_once(section):
    found = multimodal_data.open_data(section, TOKENIZER, CODES)
    now = found.facts
    # As checkpoints told the order before: they resume.
    saved = now | {"order of the data": order_facts(found.mixture)}
    assert differences.fact_differences(saved, now) == []
    first, *others = section.mixture
    section.mixture = ((first[0] + 1, *first[1:]), *others)
    other = multimodal_data.open_data(section, TOKENIZER, CODES).facts
    (line,) = differences.fact_differences(now, other)
    assert line.startswith("weights of the parts: saved [")
    assert now["order of the data"] == {"blocks of the parts": [None] * 3}


def test_facts_change_with_the_texts(tmp_path):
    """Of files of as many records: other words, and other row groups, which change the order."""

    def facts(*entry):
        return multimodal_data.open_data(data(entry), TOKENIZER, CODES).facts

    file = chats(tmp_path, [("what colour?", "red")] * 20)
    before = facts(1.0, "chat", file)
    assert facts(1.0, "chat", file) == before
    chats(tmp_path, [("what colour?", "blue")] * 20)
    assert facts(1.0, "chat", file) != before
    table = pyarrow.table({"text": ["a red circle"] * 20})
    found = []
    for rows in (20, 10):
        parquet.write_table(table, tmp_path / "a.parquet", row_group_size=rows)
        found.append(facts(1.0, "text", str(tmp_path / "a.parquet")))
    assert found[0].pop("order of the data") != found[1].pop("order of the data")
    assert found[0] == found[1]


def test_another_window_is_another_order_of_row_groups(tmp_path):
    table = pyarrow.table({"text": ["a red circle"] * 20})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=5)
    entry = 1.0, "text", str(tmp_path / "a.parquet")
    one, two = (
        multimodal_data.open_data(data(entry, window=window), TOKENIZER, CODES).facts
        for window in (1, 2)
    )
    (line,) = differences.fact_differences(one, two)
    assert line == "order of the data: data.window: saved 1, now 2"
    del one["order of the data"]["data.window"]  # as checkpoints were before it was told
    assert differences.fact_differences(one, two) == []
