"""The user's API."""

import pickle

import jax
import numpy as np
import pytest

import parity
import unitok_jax
from unitok_jax.tokenizer import Codes


@pytest.fixture(scope="module")
def tokenizer(weights):
    return unitok_jax.load(weights, batch_size=2)


@pytest.fixture(scope="module")
def pictures():
    return parity.weights.reference_images(4, 64, parity.SEED)


class TestCodes:
    def test_are_the_references(self, tokenizer, pictures):
        golden = parity.load("tiny")
        codes = tokenizer.encode(pictures)
        assert codes.dtype == np.int32 and codes.shape == (4, 4, 16) and codes.grid == (4, 4)
        certain = golden["code_margin"] > 1e-4
        np.testing.assert_array_equal(codes[certain], golden["codes"][certain])

    def test_decode_is_the_references_clipped(self, tokenizer, pictures):
        golden = parity.load("tiny")["reconstruction"]
        images = tokenizer.decode(tokenizer.encode(pictures))
        assert images.dtype == np.float32
        np.testing.assert_allclose(images, golden.clip(-1, 1), atol=1e-4 * golden.std())
        np.testing.assert_array_equal(images, tokenizer.reconstruct(pictures))

    def test_uint8_is_the_same_picture(self, tokenizer, images):
        floats = images.astype(np.float32) / 127.5 - 1
        np.testing.assert_array_equal(tokenizer.encode(images), tokenizer.encode(floats))

    def test_grid_is_kept(self, tokenizer):
        images = np.zeros((3, 32, 64, 3), np.uint8)
        images[1, :, :32] = 255
        codes = tokenizer.encode(images)
        assert codes.grid == (2, 4)
        assert tokenizer.decode(codes).shape == images.shape
        assert tokenizer.decode(codes[1:2]).shape == (1, 32, 64, 3)
        plain = np.asarray(codes).tolist()
        np.testing.assert_array_equal(tokenizer.decode(plain, (2, 4)), tokenizer.decode(codes))
        again = pickle.loads(pickle.dumps(codes))
        assert again.grid == (2, 4) and np.array_equal(again, codes)

    def test_square_is_assumed_only_where_it_fits(self, tokenizer):
        codes = np.zeros((1, 4, 8), np.int32)
        with pytest.raises(ValueError, match=r"8 image tokens.*grid="):
            tokenizer.decode(codes)
        with pytest.raises(ValueError, match=r"grid=\(3, 3\).*8 image tokens"):
            tokenizer.decode(Codes(codes, (3, 3)))
        assert tokenizer.decode(codes[..., :4]).shape == (1, 32, 32, 3)


class TestFeatures:
    def test_image_features_are_the_references(self, tokenizer, pictures):
        golden = parity.load("tiny")["clip_image_features"]
        np.testing.assert_allclose(tokenizer.encode_image(pictures), golden, atol=1e-5)

    def test_text(self, tmp_path):
        """Real words need CLIP's vocabulary, which the reference's tiny model does not have."""
        from flax import nnx

        from configs import tiny
        from unitok_jax.models import UniTok
        from unitok_jax.tokenizer import Tokenizer

        config = tiny.get_config()
        model = UniTok(**config.model.to_dict(), rngs=nnx.Rngs(0))
        params = nnx.to_pure_dict(nnx.state(model))
        tokenizer = Tokenizer(config, params, batch_size=2)
        features = tokenizer.encode_text(["a cat", "a dog", "A  CAT "])
        assert features.shape == (3, 64)
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(features[0], features[2], atol=1e-6)
        assert not np.allclose(features[0], features[1], atol=1e-3)
        assert tokenizer.encode_text("a cat").shape == (1, 64)
        with pytest.raises(TypeError, match="int"):
            tokenizer.encode_text([3])


def test_batches_of_any_size_compile_once(weights, images):
    tokenizer = unitok_jax.load(weights, batch_size=2)
    alone = [tokenizer.encode(images[i : i + 1]) for i in range(2)]
    for count in (1, 2, 3, 5):
        batch = np.resize(images, (count, 64, 64, 3))
        codes = tokenizer.encode(batch)
        np.testing.assert_array_equal(codes, np.concatenate([alone[i % 2] for i in range(count)]))
        tokenizer.decode(codes)
    assert tokenizer._encode._cache_size() == tokenizer._decode._cache_size() == 1


class TestDevices:
    def test_share_the_images(self, weights, tokenizer, pictures):
        many = unitok_jax.load(weights, devices=jax.local_devices())
        assert many.batch_size == len(jax.local_devices()) == 8
        np.testing.assert_array_equal(many.encode(pictures), tokenizer.encode(pictures))
        np.testing.assert_allclose(
            many.reconstruct(pictures), tokenizer.reconstruct(pictures), atol=1e-5
        )

    def test_a_batch_is_a_multiple_of_them(self, weights):
        with pytest.raises(ValueError, match="batch_size=3 .* 8 devices"):
            unitok_jax.load(weights, 3, devices=jax.local_devices())


class TestManyBatches:
    def test_are_encoded_as_one_by_one(self, tokenizer, pictures):
        batches = [pictures[:2], pictures[2:3]]
        found = list(tokenizer.encode_batches(iter(batches)))
        assert [len(codes) for codes in found] == [2, 1] and found[1].grid == (4, 4)
        np.testing.assert_array_equal(np.concatenate(found), tokenizer.encode(pictures[:3]))
        assert list(tokenizer.encode_batches([])) == []

    def test_of_more_than_the_batch_size(self, tokenizer, pictures):
        with pytest.raises(ValueError, match="4 images is over 2"):
            list(tokenizer.encode_batches([pictures]))


class TestHash:
    def test_is_of_the_weights_not_of_the_file(self, tokenizer, tmp_path):
        for name in ("folder", "file.safetensors"):
            tokenizer.save(tmp_path / name)
            assert unitok_jax.load(tmp_path / name).hash == tokenizer.hash

    def test_the_dtype_is_not_part_of_it(self, weights, tokenizer):
        assert unitok_jax.load(weights, dtype="bfloat16").hash == tokenizer.hash

    @pytest.mark.parametrize("change", ["weights", "quant_heads"])
    def test_anything_else_is(self, tokenizer, change):
        config = tokenizer.config.copy_and_resolve_references()
        params = jax.device_get(tokenizer.params)
        if change == "weights":
            kernel = params["projection"]["kernel"] = params["projection"]["kernel"].copy()
            kernel[3, 5] = np.nextafter(kernel[3, 5], np.inf)
        else:
            config.model.quant_heads = 2
        assert unitok_jax.Tokenizer(config, params).hash != tokenizer.hash


class TestBadInput:
    @pytest.mark.parametrize(
        "images, words",
        [
            (np.zeros((64, 64, 3)), "single image"),
            (np.zeros((1, 3, 64, 64)), r"expected \(B, H, W, 3\)"),
            (np.zeros((1, 60, 64, 3)), "60"),
            (np.zeros((1, 8, 8, 3)), "8"),
            (np.full((1, 32, 32, 3), 200.0), r"127\.5"),
            (np.full((1, 32, 32, 3), np.nan), "nan"),
            (np.zeros((0, 32, 32, 3)), "empty"),
        ],
    )
    def test_images(self, tokenizer, images, words):
        for method in (tokenizer.encode, tokenizer.encode_image):
            with pytest.raises(ValueError, match=words):
                method(images)

    def test_image_dtype(self, tokenizer):
        with pytest.raises(TypeError, match="int64"):
            tokenizer.encode(np.zeros((1, 32, 32, 3), np.int64))

    @pytest.mark.parametrize("value", [-1, 64])
    def test_codes_out_of_range(self, tokenizer, value):
        codes = np.zeros((1, 4, 4), np.int32)
        codes[0, 1, 2] = value
        with pytest.raises(ValueError, match=rf"{value}.*\[0, 64\)"):
            tokenizer.decode(codes)

    def test_codes_of_another_shape_or_dtype(self, tokenizer):
        with pytest.raises(ValueError, match=r"expected \(B, 4, N\)"):
            tokenizer.decode(np.zeros((1, 8, 4), np.int32))
        with pytest.raises(TypeError, match="float64"):
            tokenizer.decode(np.zeros((1, 4, 4)))

    def test_texts_for_a_model_of_another_vocabulary(self, tokenizer):
        with pytest.raises(ValueError, match="512 token ids"):
            tokenizer.encode_text(["a cat"])

    def test_batch_size(self, weights):
        with pytest.raises(ValueError, match="batch_size=0"):
            unitok_jax.load(weights, batch_size=0)

    def test_unknown_argument(self, weights):
        with pytest.raises(TypeError, match="text_head"):
            unitok_jax.load(weights, text_head=4)


def test_save_and_load(tokenizer, pictures, tmp_path):
    tokenizer.save(tmp_path / "folder")
    again = unitok_jax.load(tmp_path / "folder", batch_size=2)
    np.testing.assert_array_equal(again.encode(pictures), tokenizer.encode(pictures))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_codes_do_not_depend_on_the_rest_of_a_batch(weights, dtype):
    """On its neighbours, its place, what fills a batch up, or how many devices share the rest."""
    images = np.random.default_rng(2).integers(0, 256, (20, 32, 32, 3), np.uint8)
    five = unitok_jax.load(weights, 5, dtype=dtype)
    codes, order = five.encode(images), np.random.default_rng(0).permutation(20)
    np.testing.assert_array_equal(five.encode(images[order]), codes[order])
    np.testing.assert_array_equal(five.encode(images[7:8]), codes[7:8])
    np.testing.assert_array_equal(five.encode(images[:18]), codes[:18])
    shared = unitok_jax.load(weights, 20, dtype=dtype, devices=jax.devices()[:4])
    np.testing.assert_array_equal(shared.encode(images), codes)
