"""Batches of codes and their prompts: what a row is, its chances, and what is refused."""

import contextlib
import logging

import numpy as np
import pytest

from helpers import coded
from unitok_jax.data.codes.records import open_codes
from unitok_jax.generate import data
from unitok_jax.generate.config_checks import check
from unitok_jax.generate.prompts import Captions, Features, Labels, open_prompts

COUNT = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return coded.write(tmp_path_factory.mktemp("codes") / "codes", COUNT)


@pytest.fixture
def config(folder):
    return coded.config(folder)


def batches(config, count, rows=range(8), start=0, seed=0, prompts=None):
    """So many batches, without their notes."""
    records = data.open_records(config.data.path, "data.path", config.model)
    prompts = prompts or open_prompts(config)
    opened = data.train_batches(
        config.data, seed, records, prompts, start_step=start, rows=tuple(rows)
    )
    with contextlib.closing(opened):
        return [next(opened) for _ in range(count)]


def same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        np.testing.assert_array_equal(value, other[key], err_msg=key)


class TestTrainingBatches:
    def test_what_a_batch_is(self, config):
        (batch,) = batches(config, 1)
        assert batch["codes"].shape == (8, 2, 6) and batch["codes"].dtype == np.uint16
        assert batch["labels"].shape == (8,) and batch["labels"].dtype == np.int32

    @pytest.mark.parametrize("processes", [2, 4])
    def test_rows_are_the_same_for_any_number_of_processes(self, config, processes):
        whole, parts = batches(config, 2), []
        for process in range(processes):
            parts.append(batches(config, 2, range(process, 8, processes)))
        for number, batch in enumerate(whole):
            for process, part in enumerate(parts):
                same(part[number], {key: row[process::processes] for key, row in batch.items()})

    def test_a_batch_is_a_function_of_seed_and_step(self, config):
        first = batches(config, 5)
        for batch, later in zip(first[3:], batches(config, 2, start=3), strict=True):
            same(batch, later)
        other = batches(config, 1, seed=1)[0]
        assert (other["codes"] != first[0]["codes"]).any()
        config.data.num_threads = 3
        for batch, threaded in zip(first, batches(config, 5), strict=True):
            same(batch, threaded)

    def test_each_record_once_an_epoch_and_each_view_as_often(self, config, tmp_path):
        def codes(i):
            return np.broadcast_to(10 * i + np.arange(10)[:, None, None], (10, 2, 6))

        coded.write(tmp_path / "codes", COUNT, codes=codes, codebook_size=240)
        config.data.path, config.model.vocab_size = str(tmp_path / "codes"), 480
        seen = np.concatenate([b["codes"][:, 0, 0] for b in batches(config, 300)])
        epochs, views = (seen // 10).reshape(100, COUNT), np.bincount(seen % 10, minlength=10)
        assert (np.sort(epochs) == np.arange(COUNT)).all()
        assert (epochs[0] != epochs[1]).any()
        assert (abs(views - 240) < 4.5 * 240**0.5).all(), views

    def test_one_of_several_captions(self, config, tmp_path):
        coded.write(tmp_path / "codes", 8, captions=lambda i: (f"dog {i}", f"cat {i}"))
        config.data.path, config.model.prompt = str(tmp_path / "codes"), "text"
        seen = np.concatenate([b["text"] for b in batches(config, 50, prompts=Captions(5))])
        assert seen.shape == (400, 5) and seen.dtype == np.int32
        words, counts = np.unique(seen[:, 1], return_counts=True)
        assert len(words) == 2 and (abs(counts / 400 - 0.5) < 0.1).all()


class TestEvaluationRows:
    def test_the_centre_in_order_and_masked_past_the_end(self, config):
        records = open_codes(config.data.path)
        rows = data.eval_rows(records, range(20, 28), Labels(3))
        assert rows["mask"].tolist() == [True] * 4 + [False] * 4
        assert rows["labels"][:4].tolist() == [20 % 3, 21 % 3, 22 % 3, 23 % 3]
        centres = np.stack([records[i]["codes"][4] for i in range(20, 24)])
        np.testing.assert_array_equal(rows["codes"][:4], centres)

    @pytest.mark.parametrize("views", ["center", "center+flip"])
    def test_the_only_view_or_the_first(self, tmp_path, views):
        records = open_codes(coded.write(tmp_path / "codes", 4, **{"--views": views}))
        rows = data.eval_rows(records, range(4), Labels(3))
        np.testing.assert_array_equal(rows["codes"], [record["codes"][0] for record in records])

    def test_the_first_caption(self, tmp_path):
        write = coded.write(tmp_path / "codes", 4, captions=lambda i: ("dog", "cat"))
        rows = data.eval_rows(open_codes(write), range(4), Captions(4))
        np.testing.assert_array_equal(
            rows["text"], [Captions(4)({"captions": ("dog",)})["text"]] * 4
        )


class TestCodesThatDoNotFit:
    @pytest.mark.parametrize(
        "changes, keys, message",
        [
            ({}, {"model.num_codebooks": 4}, "model.num_codebooks=4, but the codes of data.path="),
            ({}, {"model.vocab_size": 64}, "model.vocab_size=64, but the codes of .* have 32"),
            ({}, {"model.grid": (3, 2)}, r"model.grid=\(3, 2\), but .* have \(2, 3\); set it"),
            ({}, {"model.classes": 2}, "are of 3 classes; set model.classes=3, not 2"),
            ({"class_names": None}, {}, "have no labels; tokenize --data=labelled:PATH, or set"),
            ({"tokens": 8}, {}, "8 tokens for a grid of .*: those of a tokenizer with .*_query=0"),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_is_told_with_its_key(self, config, tmp_path, changes, keys, message):
        config.update_from_flattened_dict(keys)
        path = coded.write(tmp_path / "codes", 4, **changes)
        with pytest.raises(ValueError, match=message):
            data.open_records(str(path), "data.path", config.model)

    @pytest.mark.parametrize(
        "path, message",
        [
            ("", "data.path is empty; name a folder of codes"),
            ("none", "data.path=none: none is no"),
        ],
    )
    def test_no_folder(self, config, path, message):
        with pytest.raises((ValueError, OSError), match=message):
            data.open_records(path, "data.path", config.model)

    def test_a_label_that_the_manifest_does_not_know(self, tmp_path, config):
        config.data.path = str(coded.write(tmp_path / "codes", class_names=("a",)))
        config.model.classes = 1
        with pytest.raises(ValueError, match="have label [12], and model.classes=1: labels are 0"):
            batches(config, 1)


def record(key="a/b.png", **values):
    return {"key": key, "label": None, "captions": ()} | values


class TestPrompts:
    def test_labels(self):
        assert Labels(3)(record(label=2)) == {"labels": 2}
        with pytest.raises(ValueError, match="the codes of a/b.png have no label; tokenize"):
            Labels(3)(record())
        with pytest.raises(ValueError, match="label 3, and model.classes=3: labels are 0 to 2"):
            Labels(3)(record(label=3))

    def test_captions_are_needed(self):
        with pytest.raises(
            ValueError, match="the codes of a/b.png have no caption, which model.pr"
        ):
            Captions(8)(record())

    def test_captions_that_are_cut_are_told(self, caplog):
        records = [record(captions=("a dog",)), record(captions=("a dog and a cat", "dog"))]
        with caplog.at_level(logging.WARNING):
            Captions(7).tell_cuts(records)
        assert not caplog.text
        Captions(6).tell_cuts(records)
        assert "1 of the first 3 captions are longer than model.text_tokens=6" in caplog.text

    def test_features(self, tmp_path):
        found = np.arange(6, dtype=np.float16).reshape(2, 3)
        (tmp_path / "a").mkdir()
        np.save(tmp_path / "a" / "b.png.npy", found)
        np.save(tmp_path / "none.npy", found[:0])
        read = Features(str(tmp_path), 4, 3)
        rows = read(record())
        np.testing.assert_array_equal(rows["features"], [[0] * 3, [0] * 3, [0, 1, 2], [3, 4, 5]])
        assert rows["features"].dtype == np.float32 and not rows["null"]
        assert rows["valid"].tolist() == [False, False, True, True]
        empty = read(record("none"))
        assert empty["null"] and not empty["valid"].any() and not empty["features"].any()

    def test_features_made_anew_have_another_digest(self, tmp_path):
        """Any of 256 records decides, and of more those spread over all."""
        read, names = Features(str(tmp_path), 4, 3), [f"{i}" for i in range(520)]
        for name in names:
            np.save(tmp_path / f"{name}.npy", np.full((2, 3), int(name), np.float32))
        few, many = ([record(name) for name in some] for some in (names[:5], names))
        before = read.digest(few), read.digest(many)
        assert before == (read.digest(few), read.digest(many)) and before[0] != before[1]
        np.save(tmp_path / "4.npy", np.zeros((2, 3), np.float32))
        assert read.digest(few) != before[0]
        assert read.digest(few[:4]) != read.digest(few[3::-1])
        np.save(tmp_path / "516.npy", np.zeros((2, 3), np.float32))  # not among them
        np.save(tmp_path / "4.npy", np.full((2, 3), 4, np.float32))
        assert read.digest(many) == before[1]
        np.save(tmp_path / "517.npy", np.ones((1, 3), np.float32))
        assert read.digest(many) != before[1]

    @pytest.mark.parametrize(
        "array, message",
        [
            (
                np.zeros((5, 3), np.float32),
                r"float32 \(5, 3\), not .*text_features=3\) with n up to",
            ),
            (
                np.zeros((2, 4), np.float32),
                r"float32 \(2, 4\), not float16 or float32 \(n, model.t",
            ),
            (np.zeros((2, 3), np.int32), r"int32 \(2, 3\), not"),
            (np.zeros(3, np.float32), r"float32 \(3,\), not"),
            (np.full((2, 3), np.inf, np.float32), "holds values that are not finite"),
            (np.array([None]), "is no array of NumPy"),
            (None, r"there is no .*b.png.npy; each record of the codes needs its KEY.npy"),
        ],
        ids=lambda value: str(value)[:20].replace("\n", " "),
    )
    def test_features_that_do_not_fit(self, tmp_path, array, message):
        (tmp_path / "a").mkdir()
        if array is not None:
            np.save(tmp_path / "a" / "b.png.npy", array)
        with pytest.raises((ValueError, OSError), match=message):
            Features(str(tmp_path), 4, 3)(record())

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(50), b"text", None])
    def test_files_that_are_no_features(self, tmp_path, content):
        """None: an archive of arrays under the name of an array."""
        (tmp_path / "a").mkdir()
        file = tmp_path / "a" / "b.png.npy"
        if content is None:
            np.savez(tmp_path / "a.npz", np.zeros((1, 3), np.float32))
            content = (tmp_path / "a.npz").read_bytes()
        file.write_bytes(content)
        with pytest.raises(ValueError, match="b.png.npy is no array of NumPy"):
            Features(str(tmp_path), 4, 3)(record())

    def test_files_elsewhere_are_not_read(self, tmp_path):
        np.save(tmp_path / "x.npy", np.zeros((1, 3), np.float32))
        (tmp_path / "in").mkdir()
        with pytest.raises(ValueError, match="the key '../x' names no file below"):
            Features(str(tmp_path / "in"), 4, 3)(record("../x"))

    def test_no_folder_of_features(self):
        with pytest.raises(FileNotFoundError, match="data.text_features=none: there is no such"):
            Features("none", 4, 3)


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"model.prompt": "text"}, "model.prompt_rope=zero .*; set model.prompt_rope=identity"),
        (
            {"model.prompt": "text", "model.prompt_rope": "identity"},
            "model.prompt=text needs the features .*: set data.tokenizer",
        ),
        ({"data.text_features": "x"}, "data.text_features=x is not read with model.prompt=class"),
        ({"eval.preview": -1}, "eval.preview=-1 must not be negative"),
        ({"eval.temperature": -0.5}, "eval.temperature=-0.5 must not be negative"),
        ({"eval.scale": float("nan")}, "eval.scale=nan is not a finite number"),
        ({"model.null_class": False}, "loss.drop_prompt=0.1 drops labels, and model.null_class"),
        (
            {"model.null_class": False, "loss.drop_prompt": 0.0, "eval.scale": 2.0},
            "eval.scale=2.0 guides by a null class",
        ),
        (
            {"loss.drop_prompt": 0.0, "eval.scale": 2.0},
            "eval.scale=2.0 guides by a null prompt that loss.drop_prompt=0 does not train",
        ),
        ({"loss.chunk": 4}, "loss.chunk=4 does not divide the 6 tokens of model.grid"),
        ({"loss.drop_prompt": 1.0}, "loss.drop_prompt=1.0 must be at least 0 and below 1"),
        ({"data.batch_size": 0}, "data.batch_size=0 must be at least 1"),
        ({"optim.schedule": "step"}, "optim.schedule='step' is not one of cosine"),
        ({"optim.schedule": "exponential"}, "exponential never reaches optim.final_fraction=0"),
        ({"optim.learning_rate": -1.0}, "optim.learning_rate=-1.0 must not be negative"),
        ({"optim.betas": (1.0, 0.9)}, r"optim.betas=\(1.0, 0.9\) must be at least 0 and below 1"),
        ({"optim.warmup_fraction": 2.0}, "optim.warmup_fraction=2.0 must lie between 0 and 1"),
        ({"seed": -1}, "seed=-1 must not be negative"),
        ({"checkpoint.keep_best": -1}, "checkpoint.keep_best=-1 must not be negative"),
        (
            {"checkpoint.best_metric": "eval/loss"},
            "best_metric='eval/loss' is not one of eval/gain",
        ),
        ({"log.profile_steps": (7,)}, "7 is no step from 1 to steps=6"),
    ],
    ids=str,
)
def test_values_that_do_not_fit(config, keys, message):
    check(config)
    config.update_from_flattened_dict(keys)
    with pytest.raises(ValueError, match=message):
        check(config)
