"""Drawing from Python: what a sample depends on, completion, loading, and bad input."""

import types

import jax
import numpy as np
import pytest
from flax import nnx

import unitok_jax
from helpers import generators
from unitok_jax.codes import Codes
from unitok_jax.generate import loading, sampling
from unitok_jax.generate.api import Sampler
from unitok_jax.generate.step import abstract_model

pytestmark = pytest.mark.slow

LABELS = np.arange(20) % 3


def sampler(weights, batch_size=4, devices=1, **more):
    return Sampler(weights, batch_size, jax.devices()[:devices], **more)


@pytest.fixture(scope="module")
def weights():
    return generators.weights()


@pytest.fixture(scope="module")
def gen(weights):
    """Draws four samples at a time on one device."""
    return sampler(weights)


@pytest.fixture(scope="module")
def drawn(gen):
    """Twenty guided samples."""
    return gen.sample(LABELS, key=5, scale=2.0)


class TestASampleDependsOnKeyIndexAndLabel:
    @pytest.mark.parametrize("batch_size, devices", [(1, 1), (16, 1), (8, 8), (32, 8), (6, 2)])
    def test_not_on_batch_nor_mesh(self, weights, drawn, batch_size, devices):
        codes = sampler(weights, batch_size, devices).sample(LABELS, key=5, scale=2.0)
        np.testing.assert_array_equal(codes, drawn)

    def test_not_on_its_neighbours_nor_their_order(self, gen, drawn):
        order = np.random.default_rng(0).permutation(20)
        codes = gen.sample(LABELS[order], index=order, key=5, scale=2.0)
        np.testing.assert_array_equal(codes, drawn[order])
        for number in (0, 7):
            alone = gen.sample(int(LABELS[number]), index=number, key=5, scale=2.0)
            np.testing.assert_array_equal(alone[0], drawn[number])

    def test_on_each_of_them(self, gen, drawn):
        one = {"labels": [1], "key": 5, "index": [4], "scale": 2.0}
        same = gen.sample(**one)
        np.testing.assert_array_equal(same[0], drawn[4])
        for change in ({"key": 6}, {"index": [5]}, {"labels": [2]}, {"key": 2**32 - 1}):
            assert (gen.sample(**one | change) != same).mean() > 0.3

    def test_codes(self, gen, drawn):
        assert isinstance(drawn, Codes) and drawn.dtype == np.int32
        assert (drawn.shape, drawn.grid) == ((20, 2, 6), (2, 3)) == ((20, 2, 6), gen.grid)
        assert drawn.min() >= 0 and drawn.max() < 8


def test_numbers_of_filters_share_a_program(gen, monkeypatch):
    traced, original = [], sampling.sample

    def counted(*given, **named):
        traced.append(named["filters"])
        return original(*given, **named)

    monkeypatch.setattr(sampling, "sample", counted)
    settings = [(0.7, 3, 0.9), (0.9, 4, 0.5), (1.3, 4, 0.99)]
    codes = [
        gen.sample(LABELS, temperature=temperature, top_k=top_k, top_p=top_p)
        for temperature, top_k, top_p in settings
    ]
    assert len(traced) == 1
    assert len(np.unique(np.asarray(codes).reshape(3, -1), axis=0)) == 3
    one = gen.sample(LABELS, temperature=0.7)
    np.testing.assert_array_equal(gen.sample(LABELS, temperature=0.7, top_p=1), one)
    assert len(traced) == 2
    greedy = gen.sample(LABELS, temperature=0)
    np.testing.assert_array_equal(gen.sample(LABELS, temperature=0.7, top_k=1, key=9), greedy)


def test_frequencies_of_a_generator_that_is_known():
    """Logits depend on the codebook alone; draws at two places do not depend on another."""
    bias = np.log([[0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]]).astype(np.float32)
    found = generators.weights(head_depth=0, vocab_size=8, grid=(1, 2))
    found.params["head"]["kernels"] *= 0
    found.params["head"]["bias"] = bias
    codes = np.asarray(sampler(found, 1000).sample(np.zeros(10_000, int), key=1))
    places = codes.transpose(1, 2, 0).reshape(4, -1)  # codebook, then token
    for place, p in zip(places, np.exp(bias).repeat(2, axis=0), strict=True):
        seen = np.bincount(place, minlength=4) / 10_000
        assert (np.abs(seen - p) < 5 * np.sqrt(p * (1 - p) / 10_000)).all()
    for first in range(4):
        for second in range(first):
            pairs = np.histogram2d(places[first], places[second], bins=4, range=[[-0.5, 3.5]] * 2)
            p = np.outer(*(np.exp(bias)[place // 2] for place in (first, second)))
            assert (np.abs(pairs[0] / 10_000 - p) < 5 * np.sqrt(p * (1 - p) / 10_000)).all()


def test_codes_of_a_token_draw_with_numbers_of_their_own():
    """A depth head whose logits do not depend on anything: a pair is as likely as any."""
    found = generators.weights(num_codebooks=2, vocab_size=8, grid=(1, 1))
    found.params["head"]["kernel"] *= 0
    found.params["head"]["bias"] *= 0
    first, second = np.asarray(sampler(found, 500).sample(np.zeros(2000, int))[..., 0]).T
    pairs = np.bincount(4 * first + second, minlength=16)
    assert (np.abs(pairs / 2000 - 1 / 16) < 5 * np.sqrt(1 / 16 / 2000)).all()


class TestGuidance:
    def test_a_number_is_a_scale_of_all(self, gen, drawn):
        for scale in (np.full(2, 2.0), np.full((6, 1), 2.0), np.full((6, 2), 2.0)):
            np.testing.assert_array_equal(gen.sample(LABELS, key=5, scale=scale), drawn)

    def test_first_tokens(self, gen, drawn):
        """Equal as long as they are guided, and to a schedule that ends in ones."""
        codes = gen.sample(LABELS, key=5, scale=2.0, guided_tokens=3)
        np.testing.assert_array_equal(codes[..., :3], drawn[..., :3])
        assert (codes != drawn).any()
        schedule = np.array([2.0, 2, 2, 1, 1, 1])[:, None]
        np.testing.assert_array_equal(gen.sample(LABELS, key=5, scale=schedule), codes)

    def test_one_codebook(self, gen, drawn):
        """The first code of the first token knows no other."""
        codes = gen.sample(LABELS, key=5, scale=(2.0, 1.0))
        np.testing.assert_array_equal(codes[:, 0, 0], drawn[:, 0, 0])
        assert (codes != drawn).any()
        unguided = gen.sample(LABELS, key=5)
        np.testing.assert_array_equal(gen.sample(LABELS, key=5, guided_tokens=0), unguided)

    def test_scale_zero_is_the_null_prompt(self, gen):
        nobody = gen.sample(index=np.arange(20), key=5)
        np.testing.assert_array_equal(gen.sample(LABELS, key=5, scale=0.0), nobody)


class TestCompletion:
    def test_keeps_what_was_given(self, gen, drawn):
        known = np.array([[True, False, False], [False, True, True]])
        codes = gen.complete(drawn[:5], known, LABELS[:5], count=3, key=9)
        assert isinstance(codes, Codes) and codes.shape == (15, 2, 6) and codes.grid == (2, 3)
        kept = np.repeat(np.asarray(drawn[:5])[..., known.ravel()], 3, axis=0)
        np.testing.assert_array_equal(np.asarray(codes)[..., known.ravel()], kept)
        samples = np.asarray(codes).reshape(5, 3, -1)
        assert all(len(np.unique(each, axis=0)) == 3 for each in samples)

    def test_first_rows_of_a_sample_are_continued_as_it(self, gen, drawn):
        known = np.array([[True] * 3, [False] * 3])
        damaged = np.where(known.ravel(), drawn, 7 - np.asarray(drawn))
        codes = gen.complete(damaged, known, LABELS, key=5, scale=2.0)
        np.testing.assert_array_equal(codes, drawn)
        assert (gen.complete(damaged, known, LABELS, key=6, scale=2.0) != drawn).any()

    @pytest.mark.parametrize("mark", [-1, 99])
    def test_codes_that_are_not_known_may_be_any(self, gen, drawn, mark):
        known = np.arange(6) < 3
        marked = np.where(known, drawn, mark)
        codes = gen.complete(marked, known, LABELS, key=5, scale=2.0)
        np.testing.assert_array_equal(codes, drawn)

    def test_all_or_nothing_is_known(self, gen, drawn):
        both = {"labels": LABELS, "key": 5, "scale": 2.0}
        np.testing.assert_array_equal(gen.complete(7 - drawn, np.zeros(6, bool), **both), drawn)
        np.testing.assert_array_equal(gen.complete(drawn, np.ones(6, bool), **both), drawn)

    def test_without_a_label(self, gen, drawn):
        codes = gen.complete(drawn[0], np.arange(6) < 3, count=2)
        assert codes.shape == (2, 2, 6)


class TestOtherGenerators:
    @pytest.mark.parametrize("head_depth", [0, 1])
    def test_one_codebook(self, head_depth):
        found = generators.weights(num_codebooks=1, vocab_size=8, head_depth=head_depth)
        codes = sampler(found).sample([0, 1], scale=1.5)
        assert codes.shape == (2, 1, 6) and len(np.unique(codes)) > 2

    def test_a_narrow_head(self):
        """Greedy codes are the likeliest, given those before."""
        found = generators.weights(head_width=32)
        codes = sampler(found).sample([0, 1, 2], temperature=0)
        graph, _ = abstract_model(found.config.model.to_dict())

        @jax.jit
        def whole(params):
            model = nnx.merge(graph, params)
            hidden = model.hidden(codes, model.prompt(np.arange(3))).reshape(18, -1)
            return model.logits(hidden, codes.transpose(0, 2, 1).reshape(18, 2)).argmax(-1)

        likeliest = np.asarray(whole(found.params)).reshape(3, 6, 2).transpose(0, 2, 1)
        np.testing.assert_array_equal(codes, likeliest)

    def test_no_null_class(self, weights):
        found = generators.weights(null_class=False)
        gen = sampler(found)
        assert gen.sample([0, 2]).shape == (2, 2, 6)
        with pytest.raises(ValueError, match=r"scale=1.5 asks for guidance.*no null class"):
            gen.sample([0], scale=1.5)
        with pytest.raises(ValueError, match="asks for guidance") as refusal:
            gen.sample([0], scale=np.linspace(1, 4, 6)[:, None])
        assert "\n" not in str(refusal.value)
        with pytest.raises(ValueError, match="give labels"):
            gen.sample(index=[0])

    def test_bfloat16(self, weights, gen):
        fast = sampler(weights, precision="bfloat16")
        codes = fast.sample(LABELS, key=5)
        same = (codes == gen.sample(LABELS, key=5)).mean()
        assert 0.5 < same < 1 and fast.hash == gen.hash and fast.precision == "bfloat16"
        kernels = fast._compiled.params["trunk"]["blocks"]["mlp"]["up"]["kernel"]
        assert kernels.dtype == "bfloat16" and fast._compiled.params["embedding"].dtype == "float32"
        again = sampler(weights, batch_size=2, devices=2, precision="bfloat16")
        assert again.sample(LABELS, key=5).shape == codes.shape

    def test_texts(self):
        """Padding is not seen, and neither is what stands there."""
        found = generators.weights(prompt="text", text_tokens=3, text_features=5)
        gen, rng = sampler(found), np.random.default_rng(0)
        features = rng.normal(size=(4, 3, 5)).astype(np.float32)
        valid = np.array([[0, 1, 1], [1, 1, 1], [0, 0, 1], [0, 1, 1]], bool)
        codes = gen.sample(features=features, valid=valid, scale=2.0)
        noise = np.where(valid[..., None], features, rng.normal(size=features.shape))
        np.testing.assert_array_equal(gen.sample(features=noise, valid=valid, scale=2.0), codes)
        assert (gen.sample(features=features[::-1], valid=valid[::-1], scale=2.0) != codes).any()
        one = gen.sample(features=features[0], valid=valid[0], index=np.arange(4), scale=2.0)
        np.testing.assert_array_equal(one[0], codes[0])
        known, texts = np.arange(6) < 2, {"features": features[:2], "valid": valid[:2]}
        twice = gen.complete(codes[:2], known, count=2, index=[0, 0, 1, 1], **texts)
        for row, same in enumerate(gen.complete(codes[:2], known, **texts)):
            np.testing.assert_array_equal(twice[2 * row : 2 * row + 2], [same, same])
        for bad in ({"features": features[..., :4]}, {"features": features, "valid": valid[:2]}):
            with pytest.raises(ValueError, match="features|valid"):
                gen.sample(**bad)
        with pytest.raises(ValueError, match="text 1 is empty"):
            gen.sample(features=features[:2], valid=[[0, 1, 1], [0, 0, 0]])
        for behind in ([1, 1, 0], [1, 0, 1]):
            with pytest.raises(ValueError, match="text 1 has padding behind a token.*at the left"):
                gen.sample(features=features[:2], valid=[[0, 1, 1], behind])
        with pytest.raises(ValueError, match="prompts are texts"):
            gen.sample([0])


class TestLoading:
    def test_a_run(self, weights, gen, drawn, tmp_path):
        folder = generators.save(tmp_path / "run", weights)
        loaded = unitok_jax.load_generator(folder, 4, devices=jax.devices()[:1])
        np.testing.assert_array_equal(loaded.sample(LABELS, key=5, scale=2.0), drawn)
        assert loaded.hash == gen.hash and loaded.tokenizer_hash == generators.HASH
        assert (loaded.codebook_shape, loaded.classes) == ((2, 8), 3)
        assert "nano of 3 classes, 2x3 tokens of 2 codes of 8" in repr(loaded)
        step = unitok_jax.load_generator(folder / "checkpoints" / "3")
        assert step.hash == gen.hash and step.batch_size == 64  # eight devices

    def test_average_or_trained(self, weights, tmp_path):
        raw = jax.tree.map(lambda a: a + 1, weights.params)
        folder = generators.save(tmp_path / "run", weights, raw=raw)
        average = unitok_jax.load_generator(folder)
        assert average.hash == unitok_jax.load_generator(folder, weights="ema").hash
        assert average.hash != unitok_jax.load_generator(folder, weights="raw").hash

    def test_a_file(self, weights, gen, tmp_path):
        loading.write(tmp_path / "gen.safetensors", weights)
        loaded = unitok_jax.load_generator(tmp_path / "gen.safetensors", grid=(2, 3), classes=3)
        assert (loaded.hash, loaded.tokenizer_hash) == (gen.hash, generators.HASH)

    def test_a_tokenizer_and_the_reverse(self, weights, tmp_path):
        from configs import tiny
        from unitok_jax.tokenizer.step import init_params
        from unitok_jax.weights import load

        config = tiny.get_config()
        folder = tmp_path / "tokenizer"
        load.write(folder, config, init_params(config.model.to_dict(), jax.random.key(0)))
        with pytest.raises(ValueError, match="tokenizer.*generator"):
            unitok_jax.load_generator(folder)
        folder = generators.save(tmp_path / "generator", weights)
        with pytest.raises(ValueError, match="generator.*tokenizer"):
            unitok_jax.load(folder)

    def test_nothing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="none does not exist"):
            unitok_jax.load_generator(tmp_path / "none")
        with pytest.raises(ValueError, match="an empty folder"):
            unitok_jax.load_generator(tmp_path)
        with pytest.raises(ValueError, match="weights='best'"):
            unitok_jax.load_generator(tmp_path, weights="best")


def tokenizer(**changes):
    """Stands for a tokenizer, with all that `Sampler.check` reads."""
    facts = {"hash": generators.HASH, "codebook_shape": (2, 8), "num_query": 0} | changes
    model = types.SimpleNamespace(num_query=facts.pop("num_query"))
    return types.SimpleNamespace(config=types.SimpleNamespace(model=model), **facts)


class TestBadInput:
    def test_texts_for_a_generator_of_stored_features(self, tmp_path):
        """Even if the tower's states have their shape."""
        found = generators.weights(prompt="text", text_tokens=3, text_features=5)
        folder = generators.save(tmp_path / "run", found._replace(stored_features="0123abcd"))
        loaded = unitok_jax.load_generator(folder)
        assert loaded.stored_features == "0123abcd"
        with pytest.raises(ValueError, match="trained on stored features .* give features= and v"):
            loaded.text_prompts(tokenizer(), "a cat")

    def test_another_tokenizer(self, weights, gen):
        gen.check(tokenizer())
        with pytest.raises(ValueError, match=f"hash {generators.HASH}.*hash other"):
            gen.check(tokenizer(hash="other"))
        unknown = sampler(weights._replace(tokenizer_hash=None))
        unknown.check(tokenizer(hash="other"))
        for checked in (gen, unknown):
            with pytest.raises(ValueError, match=r"\(2, 8\).*\(2, 16\)"):
                checked.check(tokenizer(codebook_shape=(2, 16)))
        with pytest.raises(ValueError, match="4 query tokens"):
            gen.check(tokenizer(num_query=4))

    @pytest.mark.parametrize(
        "settings, words",
        [
            ({"labels": 3}, "label 3 is none.*0 to 2"),
            ({"labels": [0, -1]}, "label -1 is none"),
            ({"labels": []}, "labels of shape"),
            ({"labels": [0.5]}, "labels have dtype float64"),
            ({"labels": [[0]]}, r"labels of shape \(1, 1\)"),
            ({"labels": None}, "nothing to draw"),
            ({"labels": None, "index": np.array([], int)}, "nothing to draw"),
            ({"temperature": -0.1}, "temperature=-0.1 must be at least 0"),
            ({"temperature": float("nan")}, "temperature=nan"),
            ({"temperature": float("inf")}, "temperature=inf"),
            ({"top_k": 0}, "top_k=0 must be in 1..8"),
            ({"top_k": 9}, "top_k=9 must be in 1..8"),
            ({"top_k": 1.5}, "top_k=1.5"),
            ({"top_p": 0}, "top_p=0 must be above 0"),
            ({"top_p": 1.01}, "top_p=1.01"),
            ({"scale": -1}, "scale=-1 must be"),
            ({"scale": float("nan")}, "scale=nan"),
            ({"scale": [1.0, 2, 3]}, r"scale of shape \(3,\): expected a number, \(2,\)"),
            ({"scale": "2"}, "scale='2' is no array of numbers"),
            ({"scale": np.array(["2", "3"])}, "is no array of numbers"),
            ({"scale": None}, "scale=None is no array of numbers"),
            ({"scale": "big"}, "scale='big' is no array of numbers: expected a number"),
            ({"scale": [[1], [1, 2]]}, r"^scale=\[\[1\], \[1, 2\]\] is no array of numbers"),
            ({"guided_tokens": 7}, "guided_tokens=7 must be in 0..6"),
            ({"key": -1}, "key=-1"),
            ({"key": 2**32}, "key=4294967296"),
            ({"key": 0.5}, "key=0.5"),
            ({"key": True}, "key=True"),
            ({"index": [0, 1, 2]}, "2 labels, 3 index"),
            ({"index": [-1, 0]}, "index=-1..0"),
            ({"index": [0]}, "one for each sample"),
            ({"given": np.zeros((2, 2, 6), int)}, "given and known belong together"),
            ({"features": np.zeros((2, 3, 5))}, "this generator has classes"),
        ],
    )
    def test_settings(self, gen, settings, words):
        with pytest.raises((ValueError, TypeError), match=words):
            gen.sample(**{"labels": [0, 1]} | settings)

    def test_a_key_of_jax_is_told_in_one_line(self, gen):
        with pytest.raises(ValueError, match=r"key=Array\(.* must be an integer in") as refusal:
            gen.sample([0], key=jax.random.key(0))
        assert "\n" not in str(refusal.value)

    def test_a_schedule_is_not_told_whole(self, gen):
        with pytest.raises(ValueError, match="must be finite and at least 0") as refusal:
            gen.sample([0], scale=-np.ones((6, 2)))
        assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 150

    @pytest.mark.parametrize(
        "codes, known, words",
        [
            (np.zeros((2, 5), int), np.ones(6, bool), r"given codes of shape \(1, 2, 5\)"),
            (np.full((2, 6), 8), np.ones(6, bool), "reach from 8 to 8.*another tokenizer"),
            (np.zeros((2, 6)), np.ones(6, bool), "dtype float64"),
            (Codes(np.zeros((2, 6), int), (3, 2)), np.ones(6, bool), r"\(3, 2\).*\(2, 3\)"),
            (np.zeros((2, 6), int), np.ones((3, 2), bool), r"known has .*\(3, 2\)"),
            (np.zeros((2, 6), int), np.ones(6, int), "known has the dtype int64"),
        ],
    )
    def test_given_codes(self, gen, codes, known, words):
        with pytest.raises((ValueError, TypeError), match=words):
            gen.complete(codes, known, 0)

    def test_counts(self, gen, weights):
        with pytest.raises(ValueError, match="count=0"):
            gen.complete(np.zeros((2, 6), int), np.ones(6, bool), 0, count=0)
        with pytest.raises(ValueError, match="batch_size=3 .* 2 devices"):
            sampler(weights, 3, 2)
        with pytest.raises(ValueError, match="precision='half'"):
            sampler(weights, precision="half")
