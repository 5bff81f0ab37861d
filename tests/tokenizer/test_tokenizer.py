"""The user's API."""

import concurrent.futures
import gc
import io
import multiprocessing
import pickle
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import unitok_jax
from helpers import parity
from unitok_jax.data.images.transforms import decode_image
from unitok_jax.models import precision
from unitok_jax.tokenizer import compiled, inputs
from unitok_jax.tokenizer.api import Codes

pytestmark = pytest.mark.slow


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
        from unitok_jax.tokenizer.api import Tokenizer

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


def programs():
    """How many the process holds."""
    gc.collect()
    return len(jax.local_devices()[0].client.live_executables())


class TestSizesOfBatches:
    def test_are_few(self, weights, images):
        tokenizer = unitok_jax.load(weights, batch_size=5)
        assert tokenizer.batch_sizes == (1, 2, 4, 5)
        alone = [tokenizer.encode(images[i : i + 1]) for i in range(2)]
        for count in (1, 2, 3, 4, 5, 6, 13):
            batch = np.resize(images, (count, 64, 64, 3))
            codes = tokenizer.encode(batch)
            np.testing.assert_array_equal(
                codes, np.concatenate([alone[i % 2] for i in range(count)])
            )
        assert tokenizer.compiled._program("encode", (64, 64, 3), None)._cache_size() == 4

    def test_only_the_rest_is_padded_and_only_so_far(self, weights, images):
        """Nothing larger than what holds the images is compiled."""
        tokenizer = unitok_jax.load(weights, batch_size=32)
        codes = tokenizer.encode(images[:1])
        assert tokenizer.decode(codes).shape == (1, 64, 64, 3)
        for method, row, grid in (
            ("encode", (64, 64, 3), None),
            ("decode", codes.shape[1:], codes.grid),
        ):
            program = tokenizer.compiled._program(method, row, grid)
            assert program._cache_size() == 1
            one = np.zeros((1, *row), np.float32 if method == "encode" else np.int32)
            tokenizer.compiled.start(method, one, 1, grid)
            assert program._cache_size() == 1
            tokenizer.compiled.start(method, one, 2, grid)
            assert program._cache_size() == 2

    def test_programs_long_unused_are_dropped(self, weights, monkeypatch):
        monkeypatch.setattr(compiled, "PROGRAMS", 2)
        tokenizer = unitok_jax.load(weights, batch_size=1)
        sizes = [(16, 16 * n) for n in range(1, 7)]
        tokenizer.encode(np.zeros((1, *sizes[0], 3), np.float32))
        tokenizer.encode(np.zeros((1, *sizes[1], 3), np.float32))
        held = programs()
        for size in sizes[2:]:
            tokenizer.encode(np.zeros((1, *size, 3), np.float32))
        assert programs() == held


class TestCompile:
    @pytest.mark.long
    def test_nothing_is_left_to_compile(self, weights, images):
        tokenizer = unitok_jax.load(weights, batch_size=4)
        tokenizer.compile([64, (32, 48)], ["encode", "decode", "encode_image"])
        held = programs()
        for count in (1, 2, 3, 4, 7):
            tokenizer.reconstruct(np.resize(images, (count, 64, 64, 3)))
        wide = np.zeros((1, 32, 48, 3), np.uint8)
        tokenizer.encode_image(wide)
        list(tokenizer.encode_batches([wide]))
        tokenizer.decode(tokenizer.encode(wide.astype(np.float32)))
        assert programs() == held
        tokenizer.encode(np.zeros((1, 48, 32, 3), np.uint8))
        assert programs() > held

    def test_by_default_the_models_size(self, weights):
        tokenizer = unitok_jax.load(weights, batch_size=2)
        tokenizer.compile(batch_sizes=[2])
        program = tokenizer.compiled._program("encode", (*tokenizer.image_size, 3), None)
        assert program._cache_size() == 1

    @pytest.mark.parametrize(
        "arguments, words",
        [
            ({"sizes": [60]}, "60 is not a positive multiple"),
            ({"methods": ["encode", "embed"]}, "'embed'.*choose from"),
            ({"batch_sizes": [3]}, r"\[3\]: choose from \(1, 2\)"),
            ({"sizes": [(16, 16 * n) for n in range(1, 34)]}, "33 sizes x 2 methods are over 64"),
        ],
    )
    def test_bad_arguments(self, tokenizer, arguments, words):
        with pytest.raises(ValueError, match=words):
            tokenizer.compile(**arguments)


class TestImagesOfManySizes:
    @pytest.fixture
    def pictures(self):
        rng = np.random.default_rng(3)
        sizes = [(32, 32), (32, 48), (32, 32), (48, 32), (32, 48), (32, 32), (32, 32), (32, 48)]
        pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
        pictures[3] = pictures[3].astype(np.float32) / 127.5 - 1
        return pictures

    @pytest.mark.parametrize("window", [None, 1, 3])
    def test_codes_are_those_of_each_in_order(self, tokenizer, pictures, window):
        found = list(tokenizer.encode_each(iter(pictures), window))
        assert len(found) == len(pictures)
        for codes, picture in zip(found, pictures, strict=True):
            assert codes.grid == (picture.shape[0] // 16, picture.shape[1] // 16)
            np.testing.assert_array_equal(codes, tokenizer.encode(picture[None]))
            assert tokenizer.decode(codes).shape == (1, *picture.shape)
        assert list(tokenizer.encode_each([])) == []

    def test_a_bad_one_is_named_after_the_codes_before_it(self, tokenizer, pictures):
        for bad, kind, words in (
            (np.zeros((30, 32, 3), np.uint8), ValueError, "image 4: .*30 is not a positive"),
            (np.zeros((32, 32), np.uint8), ValueError, r"image 4: .*\(32, 32\): .*\(H, W, 3\)"),
            (np.zeros((32, 32, 3), int), TypeError, "image 4: .*int64"),
        ):
            found = []
            with pytest.raises(kind, match=words):
                for codes in tokenizer.encode_each([*pictures[:4], bad, *pictures[4:]]):
                    found.append(codes)
            assert [codes.grid for codes in found] == [(2, 2), (2, 3), (2, 2), (3, 2)]

    def test_an_iterator_is_not_read_far_ahead(self, tokenizer, pictures):
        read = 0

        def endless():
            nonlocal read
            while True:
                yield pictures[read == 0]  # the first has a size of its own
                read += 1

        codes = tokenizer.encode_each(endless(), window=5)
        for given in range(1, 20):
            next(codes)
            assert read - given <= 10

    def test_a_buffer_may_be_used_again_while_its_image_waits(self, tokenizer, pictures):
        buffers = {size: np.empty((*size, 3), np.uint8) for size in ((32, 32), (32, 48))}

        def read():
            for picture in pictures[:3]:
                buffer = buffers[picture.shape[:2]]
                buffer[...] = picture
                yield buffer
                buffer[...] = 0

        for codes, picture in zip(tokenizer.encode_each(read()), pictures, strict=False):
            np.testing.assert_array_equal(codes, tokenizer.encode(picture[None]))

    def test_window(self, tokenizer):
        with pytest.raises(ValueError, match="window=0"):
            next(tokenizer.encode_each([], window=0))


def test_a_buffer_may_be_used_again_while_its_images_are_in_work(tokenizer, pictures):
    """`device_put` shares the memory of an aligned array on a CPU."""
    memory = np.zeros(2 * 64 * 64 * 3 * 4 + 64, np.uint8)
    start = -memory.ctypes.data % 64
    buffer = memory[start : start + memory.size - 64].view(np.float32).reshape(2, 64, 64, 3)

    def batches():
        for start in (0, 2):
            buffer[...] = pictures[start : start + 2]
            yield buffer
            buffer[...] = 0

    found = np.concatenate(list(tokenizer.encode_batches(batches())))
    np.testing.assert_array_equal(found, tokenizer.encode(pictures))


class TestPixels:
    @pytest.mark.parametrize("dtype", ["float16", "float64", ">f4", "bfloat16"])
    def test_floats_of_any_width_are_float32(self, dtype):
        images = np.linspace(-1, 1, 16 * 16 * 3).reshape(1, 16, 16, 3).astype(np.dtype(dtype))
        images.flags.writeable = False
        checked = inputs.check_images(images)
        assert checked.dtype == np.float32 and checked.dtype.isnative
        np.testing.assert_array_equal(checked, images.astype(np.float32))

    @pytest.mark.parametrize("form", ["bfloat16", "learnt", "negative", "bytes", "listed"])
    def test_tensors_of_pytorch(self, form):
        torch = pytest.importorskip("torch")
        images = torch.linspace(-1, 1, 16 * 16 * 3).reshape(1, 16, 16, 3)
        expected = images.numpy()
        given = {
            "bfloat16": images.bfloat16(),
            "learnt": torch.nn.Parameter(images),
            "negative": torch.conj(torch.complex(images, -images)).imag,  # a view
            "bytes": (images * 127).byte(),
            "listed": [images[0].bfloat16()],
        }[form]
        if form in ("bfloat16", "listed"):
            expected = images.bfloat16().float().numpy()
        if form == "bytes":
            expected = given.numpy()
        checked = inputs.check_images(given)
        assert checked.dtype == expected.dtype
        np.testing.assert_array_equal(checked, expected)

    def test_codes_of_pytorch(self):
        torch = pytest.importorskip("torch")
        codes = torch.arange(8).reshape(1, 2, 4)
        np.testing.assert_array_equal(inputs.check_codes(codes, 2, 8), codes.numpy())

    def test_go_to_the_devices_as_bytes(self, tokenizer, images, monkeypatch):
        placed = []
        put = jax.device_put
        monkeypatch.setattr(jax, "device_put", lambda x, *to: placed.append(x) or put(x, *to))
        tokenizer.encode(images)
        assert [x.dtype for x in placed] == [np.uint8]


class TestPrecision:
    def products(self, weights, name, method="encode"):
        """(products and convolutions, those in the highest precision) of a method's program."""
        tokenizer = unitok_jax.load(weights, 1, precision=name)
        rows = np.zeros((1, 64, 64, 3), np.float32)
        grid = None
        if method == "decode":
            rows, grid = np.zeros((1, 4, 16), np.int32), (4, 4)
        program = tokenizer.compiled._program(method, rows.shape[1:], grid)
        text = program.lower(tokenizer.params, rows).as_text()
        asked = [line for line in text.splitlines() if re.search("dot_general|convolution", line)]
        return len(asked), sum(line.count("HIGHEST") == 2 for line in asked)

    @pytest.mark.parametrize("method", ["encode", "decode", "encode_image"])
    def test_float32_asks_for_all_of_it(self, weights, method):
        total, highest = self.products(weights, "float32", method)
        assert highest == total > 10

    def test_bfloat16_does_so_from_the_projection_on(self, weights):
        total, highest = self.products(weights, "bfloat16")
        assert 0 < highest < total

    def test_is_what_its_name_says_whatever_jax_is_told(self, weights):
        asked = [self.products(weights, name) for name in ("float32", "bfloat16")]
        with jax.default_matmul_precision("default"):
            assert self.products(weights, "float32") == asked[0]
        with jax.default_matmul_precision("highest"):
            assert self.products(weights, "bfloat16") == asked[1]

    def test_is_float32_whatever_the_weights_were_trained_in(self, tokenizer):
        config = tokenizer.config.copy_and_resolve_references()
        config.model.dtype = "bfloat16"
        again = unitok_jax.Tokenizer(config, tokenizer.params, 1)
        rows = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
        traced = [
            str(jax.make_jaxpr(each.functions.encode)(each.params, rows))
            for each in (again, tokenizer)
        ]
        assert again.precision == "float32" and traced[0] == traced[1]
        assert "bf16" not in traced[0]

    @pytest.mark.parametrize("name, platform", [("bfloat16_3x", "tpu"), ("tensorfloat32", "gpu")])
    def test_between_asks_for_high_where_the_platform_has_it(self, tokenizer, name, platform):
        from unitok_jax.models.functions import Functions

        functions = Functions(tokenizer.config.model.to_dict(), name, platform)
        rows = np.zeros((1, 64, 64, 3), np.float32)
        text = jax.jit(functions.encode).lower(tokenizer.params, rows).as_text()
        asked = [line for line in text.splitlines() if re.search("dot_general|convolution", line)]
        high, highest = (
            [line for line in asked if len(re.findall(rf"\b{word}\b", line)) == 2]
            for word in ("HIGH", "HIGHEST")
        )
        assert len(high) + len(highest) == len(asked) and len(high) > len(highest) > 0
        assert "bf16" not in text
        assert name in precision.available(platform)

    @pytest.mark.parametrize("name", ["bfloat16_3x", "tensorfloat32"])
    def test_one_that_the_platform_does_not_compute_is_refused(self, weights, name):
        words = f"{name}.*'cpu'; choose from float32, bfloat16$"
        with pytest.raises(ValueError, match=words):
            unitok_jax.load(weights, precision=name)

    def test_unknown(self, weights):
        with pytest.raises(ValueError, match="precision='float16' is not one of float32, bfloat16"):
            unitok_jax.load(weights, precision="float16")


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
        with pytest.raises(ValueError, match="4 images: 1 to 2 fit"):
            list(tokenizer.encode_batches([pictures]))

    def test_an_empty_one_is_refused_as_by_encode(self, tokenizer, pictures):
        with pytest.raises(ValueError, match="0 images: 1 to 2 fit"):
            list(tokenizer.encode_batches([pictures[:2], pictures[:0]]))

    def test_codes_may_be_written_to(self, tokenizer, pictures):
        """As those of `encode`: a device's own memory may not."""
        for codes in (
            tokenizer.encode(pictures[:1]),
            *tokenizer.encode_batches([pictures[:2]]),
            *tokenizer.encode_each(pictures[:1]),
        ):
            codes[:, 0, 0] = 3
            assert codes[0, 0, 0] == 3


class TestHash:
    def test_is_of_the_weights_not_of_the_file(self, tokenizer, tmp_path):
        for name in ("folder", "file.safetensors"):
            tokenizer.save(tmp_path / name)
            assert unitok_jax.load(tmp_path / name).hash == tokenizer.hash

    def test_the_precision_is_not_part_of_it(self, weights, tokenizer):
        assert unitok_jax.load(weights, precision="bfloat16").hash == tokenizer.hash

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
            (np.zeros((64, 64)), r"expected \(B, H, W, 3\), or \(H, W, 3\)"),
            (np.zeros((1, 64, 64, 4), np.uint8), r"expected \(B, H, W, 3\)"),
            (np.zeros((1, 3, 64, 64)), r"expected \(B, H, W, 3\)"),
            (np.zeros((1, 60, 64, 3)), "60"),
            (np.zeros((1, 8, 8, 3)), "8"),
            (np.full((1, 32, 32, 3), 200.0), r"127\.5"),
            (np.full((1, 32, 32, 3), np.nan), "image 0 of the batch holds nan"),
            (np.stack([np.zeros((32, 32, 3)), np.full((32, 32, 3), -np.inf)]), "image 1 .* inf"),
            (np.full((1, 32, 32, 3), 1e300), "holds nan or inf"),
            ([np.zeros((32, 32, 3), np.uint8), np.zeros((32, 48, 3), np.uint8)], "image 1 of the"),
            ([np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32, 3))], "image 1 .*float64.*uint8"),
            ([], r"shape \(0,\)"),
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


class TestWhatUsersHave:
    """Images of every form give the codes of the same pixels."""

    @pytest.fixture
    def picture(self):
        return np.random.default_rng(5).integers(0, 256, (32, 48, 3), np.uint8)

    @pytest.fixture
    def codes(self, tokenizer, picture):
        return tokenizer.encode(picture[None])

    def test_a_single_image_is_a_batch_of_one(self, tokenizer, picture, codes):
        single = tokenizer.encode(picture)
        np.testing.assert_array_equal(single, codes)
        assert single.grid == codes.grid == (2, 3)
        rebuilt = tokenizer.reconstruct(picture)
        assert rebuilt.shape == (1, 32, 48, 3)
        np.testing.assert_array_equal(tokenizer.decode(single[0]), rebuilt)
        assert tokenizer.encode_image(picture).shape == (1, 64)

    def test_pillow_images_and_lists(self, tokenizer, picture, codes):
        image = Image.fromarray(picture)
        for given in (image, [image], [picture], (picture,)):
            np.testing.assert_array_equal(tokenizer.encode(given), codes)
        both = tokenizer.encode([picture, Image.fromarray(picture[::-1])])
        np.testing.assert_array_equal(both[0], codes[0])
        np.testing.assert_array_equal(both[1], tokenizer.encode(picture[::-1])[0])
        (each,) = tokenizer.encode_each([image])
        np.testing.assert_array_equal(each, codes)

    def test_arrays_of_jax_and_of_half_the_bits(self, tokenizer, picture, codes):
        for array in (jnp.asarray(picture), jnp.asarray(picture)[None]):
            np.testing.assert_array_equal(tokenizer.encode(array), codes)
        half = jnp.asarray(picture / 127.5 - 1, jnp.bfloat16)
        wide = np.asarray(half).astype(np.float32)
        for array in (half, np.asarray(half)):
            np.testing.assert_array_equal(tokenizer.encode(array), tokenizer.encode(wide))

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "I;16B", "I"])
    def test_pillow_modes_follow_the_rule_of_files(self, picture, mode):
        rng = np.random.default_rng(0)
        if mode.startswith("I"):
            kind = {"I;16": "<u2", "I;16B": ">u2", "I": np.int32}[mode]
            image = Image.fromarray(rng.integers(0, 65536, (32, 48)).astype(kind))
        else:
            image = Image.fromarray(rng.integers(0, 256, (32, 48, 4), np.uint8), "RGBA").convert(
                mode
            )
        assert image.mode == mode
        file = io.BytesIO()
        image.save(file, "TIFF" if mode in ("I", "I;16B") else "PNG")
        np.testing.assert_array_equal(
            inputs.check_images(image)[0], decode_image(file.getvalue(), "file")
        )

    @pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "LAB", "RGBX"])
    def test_other_modes_are_converted(self, picture, mode):
        image = Image.fromarray(picture).convert("RGB")
        image = Image.new(mode, (48, 32)) if mode == "LAB" else image.convert(mode)
        np.testing.assert_array_equal(
            inputs.check_images(image)[0], np.asarray(image.convert("RGB"))
        )

    @pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
    def test_a_turned_photograph_is_upright(self, picture, kind):
        exif, file = Image.Exif(), io.BytesIO()
        exif[0x0112] = 6
        Image.fromarray(picture).save(file, kind, exif=exif)
        expected = decode_image(file.getvalue(), "file")
        assert expected.shape == (48, 32, 3)
        with Image.open(file) as image:
            np.testing.assert_array_equal(inputs.check_images(image)[0], expected)

    def test_pixels_without_a_fixed_range(self, picture):
        with pytest.raises(ValueError, match="no fixed range"):
            inputs.check_images(Image.fromarray(picture[..., 0].astype(np.float32)))
        with pytest.raises(ValueError, match="no fixed range"):
            inputs.check_images(Image.fromarray(np.full((32, 32), -5, np.int32)))


class TestRange:
    @pytest.fixture(autouse=True)
    def fresh(self):
        """As in a process of its own."""
        inputs._warn_of_range.cache_clear()
        yield
        inputs._warn_of_range.cache_clear()

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
    def test_floats_from_0_are_warned_of_once(self, tokenizer, images, dtype):
        floats = (images / 255).astype(np.dtype(dtype))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                tokenizer.encode(floats)
        (warning,) = caught
        assert "uint8" in str(warning.message) and "2 * images - 1" in str(warning.message)
        assert warning.filename == __file__

    def test_one_by_one_too(self, tokenizer, images):
        with pytest.warns(UserWarning, match="uint8"):
            list(tokenizer.encode_each(images / 255))

    @pytest.mark.parametrize(
        "floats",
        [
            np.zeros((1, 16, 16, 3)),
            np.full((2, 16, 16, 3), 0.5),
            np.linspace(-0.01, 1, 768).reshape(1, 16, 16, 3),
            np.linspace(0, 255, 768).reshape(1, 16, 16, 3).astype(np.uint8),
            np.zeros((0, 16, 16, 3)),
        ],
        ids=["black or grey", "constant", "one value below 0", "pixels", "none"],
    )
    def test_nothing_else_is(self, floats):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            inputs.check_images(floats)


class TestInsideJax:
    def test_methods_say_what_to_use_instead(self, tokenizer, pictures):
        words = r"tokenizer.functions.encode\(tokenizer.params, images\)"
        for transform in (jax.jit, jax.vmap, jax.grad):
            with pytest.raises(TypeError, match=words):
                transform(tokenizer.encode)(pictures)
        with pytest.raises(TypeError, match=words):
            jax.jit(tokenizer.decode)(np.zeros((1, 4, 4), np.int32))

    def test_functions_are_the_methods(self, tokenizer, images):
        functions, params = tokenizer.functions, tokenizer.params
        codes = tokenizer.encode(images)

        @jax.jit
        def both(params, images):
            codes = functions.encode(params, images)
            return codes, functions.decode(params, codes, (4, 4)), functions.features(params, codes)

        found, rebuilt, features = both(params, images)
        np.testing.assert_array_equal(found, codes)
        np.testing.assert_allclose(rebuilt, tokenizer.decode(codes), atol=1e-5)
        np.testing.assert_allclose(features, tokenizer.encode_image(images), atol=1e-5)


def _codes_of(tokenizer, images):
    """In another process: codes, and on how many devices."""
    return np.asarray(tokenizer.encode(images)), tokenizer.batch_size, repr(tokenizer)


class TestPickle:
    def test_goes_to_another_process(self, tokenizer, weights, images):
        many = unitok_jax.load(weights, 16, devices=jax.local_devices())
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
            codes, size, told = pool.submit(_codes_of, many, images).result(timeout=120)
        np.testing.assert_array_equal(codes, tokenizer.encode(images))
        assert size == 2 and told.endswith("float32 on cpu:0)")

    def test_keeps_its_precision_and_hash(self, weights, images):
        half = unitok_jax.load(weights, 2, precision="bfloat16")
        again = pickle.loads(pickle.dumps(half))
        assert (again.precision, again.hash) == ("bfloat16", half.hash)
        np.testing.assert_array_equal(again.encode(images), half.encode(images))


def test_repr_tells_what_it_is(tokenizer):
    count = sum(leaf.size for leaf in jax.tree.leaves(tokenizer.params)) / 1e6
    assert repr(tokenizer) == (
        f"Tokenizer(tiny, {count:.1f} M parameters, 64x64 px, 4 codebooks of 64 rows, float32 on "
        "cpu:0)"
    )


def test_save_and_load(tokenizer, pictures, tmp_path):
    tokenizer.save(tmp_path / "folder")
    again = unitok_jax.load(tmp_path / "folder", batch_size=2)
    np.testing.assert_array_equal(again.encode(pictures), tokenizer.encode(pictures))


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_codes_do_not_depend_on_the_rest_of_a_batch(weights, name):
    """On its neighbours, its place, what fills a batch up, or how many devices share the rest."""
    images = np.random.default_rng(2).integers(0, 256, (20, 32, 32, 3), np.uint8)
    five = unitok_jax.load(weights, 5, precision=name)
    codes, order = five.encode(images), np.random.default_rng(0).permutation(20)
    np.testing.assert_array_equal(five.encode(images[order]), codes[order])
    np.testing.assert_array_equal(five.encode(images[7:8]), codes[7:8])
    np.testing.assert_array_equal(five.encode(images[:18]), codes[:18])
    shared = unitok_jax.load(weights, 20, precision=name, devices=jax.devices()[:4])
    np.testing.assert_array_equal(shared.encode(images), codes)


def test_threads_share_one_tokenizer(weights, monkeypatch):
    """While programs are dropped, and two devices are at work."""
    monkeypatch.setattr(compiled, "PROGRAMS", 3)
    tokenizer = unitok_jax.load(weights, 2, devices=jax.local_devices()[:2])
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, 256, (5, 16, side, 3), np.uint8) for side in (16, 16, 32, 32)]
    alone = [tokenizer.encode(images) for images in batches]
    rebuilt = [tokenizer.decode(codes) for codes in alone]

    def check(number):
        codes = tokenizer.encode(batches[number])
        np.testing.assert_array_equal(codes, alone[number])
        np.testing.assert_array_equal(tokenizer.decode(codes), rebuilt[number])

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(check, [*range(len(batches))] * 2))
