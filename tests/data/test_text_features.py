"""Stored features of captions: written, continued, bound to their captions, read by training."""

import json
import pickle

import jax.numpy as jnp
import numpy as np
import pytest

from helpers import disks, formats
from helpers.formats import jpeg, take
from unitok_jax.data.health import SampleError, TooManyBadSamples
from unitok_jax.data.pipeline import train_batches
from unitok_jax.data.sources import open_source
from unitok_jax.data.text import TextTokenizer
from unitok_jax.data.text_features import KIND, digests, open_text_features, packed, unpacked
from unitok_jax.data.writing import facts, features, packing, text_features
from unitok_jax.data.writing.folders import PARTIAL, claim

COUNT, WIDTH, LENGTH = 10, 6, 8
TEXT = {"width": 4, "heads": 1, "layers": 1, "vocab_size": 49_408, "context_length": LENGTH}
MODEL = {"embed_dim": WIDTH, "text": TEXT}
TABLE = np.random.default_rng(0).normal(size=(49_408, WIDTH)).astype(np.float32)


def encode(tokens):
    """A text tower of one table."""
    assert tokens.dtype == np.int32 and tokens.shape[1:] == (LENGTH,)
    return TABLE[tokens].sum(axis=1)


def captions(index):
    return [f"picture {index}", "the same for all", f"number {index}"][: 1 + index % 3]


def make_set(folder, count=COUNT):
    """Pictures of one to three captions."""
    folder.mkdir(parents=True)
    for index in range(count):
        (folder / f"{index:02}.jpg").write_bytes(jpeg(index))
        (folder / f"{index:02}.txt").write_text("\n".join(captions(index)))
    return folder


@pytest.fixture
def folder(tmp_path):
    return make_set(tmp_path / "in")


def config(folder, **values):
    return formats.config("folder", folder, **{"mixture": (), "max_bad": 0.0, **values})


def planned(data, source, shard_size=4, dtype="float32", tower="a"):
    more = {"--dtype": dtype, "tower": tower, "text": TEXT, "width": WIDTH}
    given = dict(shard_size=shard_size, precision="float32", more=more)
    return features.plan(KIND, data, source, **given)


def store(data, output, encode=encode, where=(0, 1), **options):
    source = open_source(data)
    settings = planned(data, source, **options)
    claim(output, settings, KIND.command)
    job = dict(zip(("process", "processes"), where, strict=True))
    work = text_features.work(encode, LENGTH, settings["--dtype"])
    features.write(source, settings, output, work, threads=2, max_bad=data.max_bad, **job)
    return open_text_features(str(output))


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


class TestWriting:
    @pytest.mark.parametrize("shard_size", [1, 4, 100])
    def test_every_caption_has_the_feature_of_its_tokens(self, folder, tmp_path, shard_size):
        stored = store(config(folder), tmp_path / "out", shard_size=shard_size)
        tokens = TextTokenizer(LENGTH)
        for index in range(COUNT):
            found = stored.of(index, "x", captions(index))
            assert found.dtype == np.float32 and found.shape == (len(captions(index)), WIDTH)
            np.testing.assert_array_equal(found, encode(tokens(captions(index))))

    def test_bfloat16_is_rounded_as_jax_does(self, folder, tmp_path):
        stored = store(config(folder), tmp_path / "out", dtype="bfloat16")
        whole = encode(TextTokenizer(LENGTH)(captions(2)))
        wanted = np.asarray(jnp.asarray(whole, jnp.bfloat16).astype(jnp.float32))
        np.testing.assert_array_equal(stored.of(2, "x", captions(2)), wanted)
        size = {d: len(packed(whole, d)) for d in ("float32", "bfloat16")}
        assert size["float32"] == 2 * size["bfloat16"] == 4 * whole.size

    def test_numbers_between_two_of_bfloat16_go_to_the_even_one(self):
        halves = np.float32([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 2**-130, 0.0, 1e30])
        found = unpacked(packed(halves, "bfloat16"), "bfloat16")
        wanted = np.asarray(jnp.asarray(halves, jnp.bfloat16).astype(jnp.float32))
        np.testing.assert_array_equal(found, wanted)

    def test_equal_captions_are_computed_once(self, folder, tmp_path):
        counts = []

        def counted(tokens):
            counts.append(len(tokens))
            return encode(tokens)

        store(config(folder), tmp_path / "out", counted, shard_size=100)
        different = {caption for index in range(COUNT) for caption in captions(index)}
        assert counts == [len(different)]

    def test_features_that_are_not_finite_are_refused(self, folder, tmp_path):
        with pytest.raises(ValueError, match="not finite: are its weights whole"):
            store(config(folder), tmp_path / "out", lambda tokens: encode(tokens) * np.nan)

    def test_two_processes_share_the_work(self, folder, tmp_path, monkeypatch):
        alone, shared, waited = tmp_path / "alone", tmp_path / "shared", []

        def sleep(_):  # while process 0 waits, process 1 does its part
            waited.append(sorted(file.name for file in shared.glob("*.array_record")))
            store(config(folder), shared, where=(1, 2))

        monkeypatch.setattr(facts.time, "sleep", sleep)
        store(config(folder), alone)
        store(config(folder), shared, where=(0, 2))
        assert waited == [["000000.array_record", "000002.array_record"]]
        assert content(shared) == content(alone)


class TestContinuing:
    def test_only_what_is_missing_or_damaged_is_written_again(self, folder, tmp_path):
        output, calls = tmp_path / "out", []
        store(config(folder), output)
        before = content(output)
        (output / "000000.json").unlink()
        (output / "manifest.json").unlink()
        with open(output / "000002.array_record", "ab") as file:
            file.truncate(66_000)
        (output / f"000002.array_record.0123456789ab{PARTIAL}").write_bytes(b"half")

        def counted(tokens):
            calls.append(len(tokens))
            return encode(tokens)

        store(config(folder), output, counted)
        assert content(output) == before and len(calls) == 2
        store(config(folder), output, counted)
        assert content(output) == before and len(calls) == 2

    @pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
    def test_stopped_and_continued(self, folder, tmp_path, error):
        output, left = tmp_path / "out", [1]

        def stops(tokens):
            if not left:
                raise error
            return encode(tokens[: left.pop() * len(tokens)])

        with pytest.raises(error):
            store(config(folder), output, stops)
        assert {file.name for file in output.iterdir()} == {
            "settings.json",
            "000000.array_record",
            "000000.json",
        }
        with pytest.raises(ValueError, match="text_features=.*out: it is not finished; give the"):
            open_text_features(str(output))
        store(config(folder), output)
        store(config(folder), tmp_path / "whole")
        assert content(output) == content(tmp_path / "whole")

    def test_a_disk_that_is_away_for_long(self, folder, tmp_path, monkeypatch):
        """Nothing that it hides is written as bad."""
        data, output = config(folder, max_bad=0.5), tmp_path / "out"
        source = open_source(data)
        settings = planned(data, source)
        claim(output, settings, KIND.command)
        work = text_features.work(encode, LENGTH, "float32")
        with monkeypatch.context() as patch:
            disks.stumble(patch, "05.jpg", disks.NEVER)
            with pytest.raises(OSError, match="05.jpg"):
                features.write(source, settings, output, work, threads=2, max_bad=0.5)
        store(data, output)
        store(data, tmp_path / "whole")
        assert content(output) == content(tmp_path / "whole")

    @pytest.mark.parametrize(
        "changes, told",
        [
            ({"tower": "b"}, "tower: 'a' before, 'b' now"),
            ({"dtype": "bfloat16"}, "--dtype: 'float32' before, 'bfloat16' now"),
            ({"shard_size": 5}, "--shard_size: 4 before, 5 now"),
        ],
    )
    def test_other_settings_need_another_folder(self, folder, tmp_path, changes, told):
        store(config(folder), tmp_path / "out")
        with pytest.raises(ValueError, match=f"begun with other settings.*\n  {told}"):
            store(config(folder), tmp_path / "out", **changes)

    def test_shards_of_another_tower_are_written_again(self, folder, tmp_path):
        one, two = tmp_path / "one", tmp_path / "two"
        store(config(folder), one)
        store(config(folder), two, lambda tokens: 2 * encode(tokens), tower="b")
        before = content(one)
        for name in ("000001.array_record", "000001.json"):
            (one / name).write_bytes((two / name).read_bytes())
        store(config(folder), one)
        assert content(one) == before


class TestOfOtherData:
    @pytest.fixture
    def stored(self, folder, tmp_path):
        return store(config(folder), tmp_path / "out")

    def test_these_fit(self, stored, folder):
        stored.check(open_source(config(folder)), MODEL)

    def test_another_number_of_samples(self, stored, tmp_path):
        more = open_source(config(make_set(tmp_path / "more" / "in", COUNT + 1)))
        with pytest.raises(ValueError, match="is of 10 samples, and the data have 11.*other data"):
            stored.check(more, MODEL)

    def test_another_caption(self, stored, folder):
        (folder / "04.txt").write_text("picture 4\nthe same for some")
        source = open_source(config(folder))
        message = f"text_features=.*out has .* other captions for sample 4, 04.jpg.*{KIND.command}"
        with pytest.raises(ValueError, match=message):
            stored.check(source, MODEL)
        with pytest.raises(ValueError, match=message):
            take(train_batches(config(folder), 0, source=source, text_features=stored), 5)

    @pytest.mark.parametrize(
        "found", [["picture 2", "the same for all"], ["number 2", "the same for all", "picture 2"]]
    )
    def test_fewer_captions_or_another_order(self, stored, found):
        with pytest.raises(ValueError, match="other captions for sample 2, two"):
            stored.of(2, "two", found)

    @pytest.mark.parametrize(
        "model, told",
        [
            ({"embed_dim": 8}, "features of 6 numbers, and model.embed_dim=8; set model.embed_d"),
            (
                {"text": TEXT | {"context_length": 16}},
                "text tower with model.text.context_length=8, and model.text.context_length=16",
            ),
            ({"text": TEXT | {"heads": 2}}, "with model.text.heads=1, and model.text.heads=2"),
        ],
    )
    def test_another_shape(self, stored, folder, model, told):
        with pytest.raises(ValueError, match=f"^data.text_features=.*out .*{told}"):
            stored.check(open_source(config(folder)), MODEL | model)

    def test_another_tower(self, stored):
        stored.check_tower("a")
        with pytest.raises(ValueError, match="is of text tower a, and this run's is b: name"):
            stored.check_tower("b")

    def test_packed_data_are_the_same_data(self, stored, folder, tmp_path):
        data, output = config(folder), tmp_path / "packed"
        source = open_source(data)
        settings = packing.plan(data, source, shard_size=4, check=False, require_captions=True)
        claim(output, settings, "unitok data pack")
        packing.pack(source, settings, output, workers=1, max_bad=0.0)
        again = open_source(formats.config("array_record", output))
        stored.check(again, MODEL)
        assert [stored.of(i, "x", again[i]["captions"]).shape[0] for i in range(3)] == [1, 2, 3]


def test_half_characters_are_as_packed_ones():
    assert digests(["a \ud83d b"]) == digests(["a \ufffd b"]) != digests(["a  b"])


class TestBadSamples:
    def test_are_counted_and_left_out(self, folder, tmp_path):
        data = config(folder, max_bad=0.1)
        (folder / "03.txt").write_bytes(b"\xff\xfe")
        stored = store(data, tmp_path / "out")
        manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
        ((reason, found),) = manifest["skipped"].items()
        assert found["count"] == 1 and "03" in found["first"][0]
        with pytest.raises(SampleError, match=f"03.jpg: without .* as it was {reason} when"):
            stored.of(3, "03.jpg", captions(3))
        stored.check(open_source(data), MODEL)

    def test_too_many(self, folder, tmp_path):
        (folder / "03.txt").write_bytes(b"\xff\xfe")
        with pytest.raises(TooManyBadSamples, match="1 of 10 samples .*data.max_bad=0 allows"):
            store(config(folder), tmp_path / "out")
        assert not (tmp_path / "out" / "manifest.json").exists()


class TestTraining:
    """Features take the place of tokens, and nothing else of a batch changes."""

    @pytest.fixture
    def stored(self, folder, tmp_path):
        return store(config(folder), tmp_path / "out")

    @pytest.mark.parametrize("options", [{}, {"rows": (1, 3)}])
    def test_the_feature_is_that_of_the_caption_drawn(self, folder, stored, options):
        drawn, sent = set(), pickle.loads(pickle.dumps(stored))  # as to data workers
        both = [
            take(train_batches(config(folder), 7, text_features=found, **options), 8)
            for found in (None, sent)
        ]
        for tokens, stands in zip(*both, strict=True):
            np.testing.assert_array_equal(stands["image"], tokens["image"])
            np.testing.assert_array_equal(stands["text"], encode(tokens["text"]))
            assert stands["text"].dtype == np.float32
            drawn.update(map(bytes, tokens["text"]))
        if "rows" not in options:  # not the first ones of all samples alone
            assert len(drawn) > COUNT

    def test_the_position_is_the_step(self, folder, stored):
        data = config(folder)
        whole = take(train_batches(data, 7, text_features=stored), 6)
        rest = take(train_batches(data, 7, text_features=stored, start_step=4), 2)
        for one, other in zip(whole[4:], rest, strict=True):
            np.testing.assert_array_equal(one["text"], other["text"])
            np.testing.assert_array_equal(one["image"], other["image"])

    def test_a_sample_that_was_left_out_is_replaced(self, folder, tmp_path):
        (folder / "03.txt").write_bytes(b"\xff\xfe")
        stored = store(config(folder, max_bad=0.1), tmp_path / "with")
        (folder / "03.txt").write_text("readable again")
        batches = train_batches(config(folder, max_bad=1.0), 0, text_features=stored)
        texts = np.concatenate([batch["text"] for batch in take(batches, 5)])
        missing = encode(TextTokenizer(LENGTH)(["readable again"]))
        assert len(texts) == 20 and not (texts == missing).all(axis=1).any()


class TestDamage:
    @pytest.fixture
    def output(self, folder, tmp_path):
        store(config(folder), tmp_path / "out")
        return tmp_path / "out"

    def test_no_folder(self, tmp_path):
        with pytest.raises(
            FileNotFoundError, match=f"is no folder; {KIND.command} --output=.*no makes"
        ):
            open_text_features(str(tmp_path / "no"))

    def test_a_folder_of_something_else(self, folder, output):
        with pytest.raises(
            ValueError, match=f"in: it has no manifest.json, which {KIND.command} wri"
        ):
            open_text_features(str(folder))
        (output / "manifest.json").write_text('{"format": "unitok_jax.codes", "version": 1}')
        with pytest.raises(ValueError, match="codes 1; this reads unitok_jax.text_features 1"):
            open_text_features(str(output))

    def test_a_shard_that_is_gone_or_cut(self, output):
        path = output / "000001.array_record"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(ValueError, match="has .* bytes, not the .*; copy it again"):
            open_text_features(str(output))
        path.unlink()
        with pytest.raises(FileNotFoundError, match="000001.array_record, .* is gone; copy it"):
            open_text_features(str(output))

    @pytest.mark.parametrize(
        "changes, told",
        [
            ({"width": 0}, "'width' is not in 1"),
            ({"tower": 3}, "'tower' is int, not str"),
            ({"text": []}, "'text' is list, not dict"),
            ({"--dtype": "float16"}, "'--dtype' is none of"),
        ],
    )
    def test_a_manifest_of_others(self, output, changes, told):
        manifest = json.loads((output / "manifest.json").read_text())
        manifest["settings"] |= changes
        (output / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(ValueError, match=f"was not written by {KIND.command}: {told}"):
            open_text_features(str(output))

    def test_records_of_others(self, folder, output, tmp_path):
        """Those that `unitok data pack` writes are ArrayRecords too."""
        manifest = json.loads((output / "manifest.json").read_text())
        manifest["settings"]["width"] = WIDTH + 1
        (output / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(ValueError, match="record 0 was not written by unitok data text"):
            open_text_features(str(output)).of(0, "x", captions(0))
