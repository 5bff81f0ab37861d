"""Every config builds, says only known keys, and the requirements are told once."""

import functools
import importlib
import math
import pathlib
import re
import tomllib

import jax
import jax.numpy as jnp
import pytest

from configs import (
    ablations,
    b16_gpu,
    default,
    finetune,
    generate,
    llava_probe,
    multimodal,
    multimodal_7b,
    recipes,
)
from unitok_jax import trees
from unitok_jax.data.buckets import bucket_sizes
from unitok_jax.data.images.transforms import check_size
from unitok_jax.evaluation.evaluator import Evaluator
from unitok_jax.generate import config_checks as generator_checks
from unitok_jax.generate.step import GeneratorSteps
from unitok_jax.models.sampling import Filters
from unitok_jax.models.unitok import abstract_model
from unitok_jax.multimodal import config_checks as multimodal_checks
from unitok_jax.multimodal import data as multimodal_data
from unitok_jax.multimodal.model import abstract_model as abstract_multimodal
from unitok_jax.multimodal.plan import batch_shapes
from unitok_jax.multimodal.prompt import Turn, conversation, encode
from unitok_jax.multimodal.step import MultimodalSteps
from unitok_jax.multimodal.words import shape_tokenizer
from unitok_jax.runtime import sharding
from unitok_jax.tokenizer.config_checks import check
from unitok_jax.tokenizer.step import TokenizerSteps

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(p.stem for p in (ROOT / "configs").glob("*.py") if p.stem != "__init__")
FAMILIES = {
    "ablations": ablations.VARIANTS,
    "b16_gpu": b16_gpu.VARIANTS,
    "finetune": finetune.VARIANTS,
    "llava_probe": llava_probe.VARIANTS,
    "multimodal_7b": multimodal_7b.VARIANTS,
    "recipes": recipes.VARIANTS | recipes.ON_SHAPES,
}
# name of a variant -> keys that it changes
CHANGES = {
    f"{family}:{variant}": changes
    for family, variants in FAMILIES.items()
    for variant, changes in variants.items()
}
NAMES = [name for name in FILES if name not in FAMILIES]
NAMES += [f"{family}:{variant}" for family, variants in FAMILIES.items() for variant in variants]


def get_config(name):
    """As `--config=configs/<name>.py`, or `ablations:<variant>`, would read it."""
    module, *variant = name.split(":")
    return importlib.import_module(f"configs.{module}").get_config(*variant)


GENERATORS = [name for name in NAMES if get_config(name).product == "generator"]
MULTIMODAL = [name for name in NAMES if get_config(name).product == "multimodal"]
TOKENIZERS = [name for name in NAMES if name not in (*GENERATORS, *MULTIMODAL)]
DEFAULTS = dict.fromkeys(GENERATORS, generate) | dict.fromkeys(MULTIMODAL, multimodal)


def flat(config, prefix=""):
    out = {}
    for key, value in config.items():
        out |= flat(value, f"{prefix}{key}.") if hasattr(value, "items") else {prefix + key: value}
    return out


@pytest.mark.parametrize("name", NAMES)
def test_keys_are_the_defaults(name):
    config = get_config(name)
    defaults = DEFAULTS.get(name, default)
    assert flat(config).keys() == flat(defaults.get_config()).keys()
    assert config.is_locked


@pytest.mark.parametrize("name", GENERATORS)
def test_generator_builds(name):
    """A step, an evaluation and sampling, without any arrays."""
    config = get_config(name)
    if name == "generate_text":
        config.data.tokenizer = "what the user names"
    generator_checks.check(config)
    pure = GeneratorSteps(config)
    state = jax.eval_shape(pure.init)
    model, tokens = config.model, math.prod(config.model.grid)
    shape = (2, model.num_codebooks, tokens)
    batch = {"codes": jax.ShapeDtypeStruct(shape, jnp.uint16)}
    if model.prompt == "class":
        batch["labels"] = jax.ShapeDtypeStruct((2,), jnp.int32)
    else:
        features = 2, model.text_tokens, model.text_features
        batch["features"] = jax.ShapeDtypeStruct(features, jnp.float32)
        batch["valid"] = jax.ShapeDtypeStruct(features[:2], bool)
        batch["null"] = jax.ShapeDtypeStruct((2,), bool)
    step = functools.partial(pure.train_step, gather=lambda params: params)
    after, metrics = jax.eval_shape(step, state, batch)
    kinds = jax.tree.map(lambda a: (a.shape, a.dtype), state)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == kinds
    assert metrics["loss_per_codebook"].shape == (model.num_codebooks,)
    batch["mask"] = jax.ShapeDtypeStruct((2,), bool)
    assert jax.eval_shape(pure.evaluate, state.params, batch).shape == (model.num_codebooks,)

    draw = functools.partial(pure.sample, filters=Filters(), scale=config.eval.scale)
    codes = jax.eval_shape(draw, state.params, batch, jax.ShapeDtypeStruct((2,), jnp.int32))
    assert (codes.shape, codes.dtype) == (shape, jnp.int32)


@pytest.mark.parametrize("name", MULTIMODAL)
def test_multimodal_model_builds(name):
    """A step and what an evaluation adds up, without any arrays; a row's data have room."""
    config = get_config(name)
    multimodal_checks.check(config)
    model, tokens = config.model, math.prod(config.model.grid)
    multimodal_data.check(config.data, tokens)
    pure = MultimodalSteps(config)
    state = jax.eval_shape(pure.init)
    config.data.batch_size = config.optim.accumulation
    batch = batch_shapes(config)
    after, metrics = jax.eval_shape(pure.train_step, state, batch)
    kinds = jax.tree.map(lambda a: (a.shape, a.dtype), state)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == kinds
    assert metrics["loss_per_codebook"].shape == (model.num_codebooks,)
    assert jax.eval_shape(pure.sums, state.params, batch).codes.shape == (model.num_codebooks,)


def test_sizes_of_multimodal_models():
    """Parameters as published: trunk 6.74 B, head 741 M, projection 7.6 M, MLP 21 M."""
    _, params = abstract_multimodal(get_config("multimodal").model.to_dict())

    def count(tree):
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

    image = params["image"]
    found = [count(part) / 1e6 for part in (params["language"], params["head"])]
    found += [count(image[part]) / 1e6 for part in ("projection", "mlp")]
    assert found == pytest.approx([6738, 741, 7.6, 21], rel=0.01)
    _, params = abstract_multimodal(get_config("multimodal_shapes").model.to_dict())
    assert 2.5e6 < count(params) < 3.5e6
    assert get_config("multimodal_shapes").model.vocabulary == shape_tokenizer().rows


@pytest.mark.parametrize("name", ["multimodal_shapes", "unified"])
def test_questions_about_shapes_are_of_known_words(name):
    words, turn = shape_tokenizer(), Turn("<image>\nwhat colour is the ring?", "red")
    template = get_config(name).data.template or None
    asked = encode(conversation([turn], words, template), words).ids
    assert words.id_of("<unk>") not in asked and len(asked) == 9


def test_make_unified_writes_what_its_model_reads():
    config, make = get_config("unified"), (ROOT / "Makefile").read_text()
    assert f"--workdir={config.data.tokenizer}\n" in make
    edits = {path for _, kind, path in config.data.mixture if kind == "edit"}
    train = {path for _, _, path in config.data.mixture} - edits
    held_out = {path for _, _, path in config.eval.mixture}
    for (folder,), split in ((train, "train"), (held_out, "held_out"), (edits, "edits")):
        assert re.search(rf"--data=shapes:{split} [^$]*--output={folder}\n", make)


@pytest.mark.parametrize("family", ["multimodal_7b", "llava_probe"])
def test_only_the_mlp_is_aligned(family):
    config = get_config(f"{family}:align")
    pure = MultimodalSteps(config)
    _, trained = trees.split(pure.abstract_params, pure.frozen)
    assert list(trained) == ["image"] and list(trained["image"]) == ["mlp"]


def test_the_probe_keeps_the_tower():
    """Vicuna of 13 B and an MLP without a norm are trained, and what makes the features is not."""
    pure = MultimodalSteps(get_config("llava_probe:finetune"))
    _, trained = trees.split(pure.abstract_params, pure.frozen)
    assert sorted(trained) == ["image", "language"] and list(trained["image"]) == ["mlp"]
    assert sorted(trained["image"]["mlp"]) == ["fc1", "fc2"]
    sizes = (leaf.size for leaf in jax.tree.leaves(trained["language"]))
    assert sum(sizes) == pytest.approx(13.02e9, rel=1e-3)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.long] * (":" in name)) for name in TOKENIZERS],
)
class TestEveryTokenizer:
    def test_one_step_and_one_evaluation_build(self, name):
        """Of a variant: with another model the evaluation alone, with other losses the step."""
        config = get_config(name)
        check(config)
        pure = TokenizerSteps(config)
        state = jax.eval_shape(pure.init)
        height, width = check_size(config.data.image_size)
        size = 2 * config.optim.accumulation
        batch = {
            "image": jax.ShapeDtypeStruct((size, height, width, 3), jnp.uint8),
            "text": jax.ShapeDtypeStruct((size, config.data.context_length), jnp.int32),
        }
        networks = pure.abstract_networks()
        rooms = {key.partition(".")[0] for key in CHANGES.get(name, ())}
        phases = [bool(config.gan.weight)]  # the second phase holds the first one's computation
        if ":" not in name:
            phases = sorted({False, *phases})
        elif rooms and rooms <= {"model", "data", "init", "checkpoint", "steps"}:
            phases = []
        for adversarial in phases:
            step = functools.partial(
                pure.train_step, adversarial=adversarial, gather=lambda params: params
            )
            after, metrics = jax.eval_shape(step, state, networks, batch)
            assert jax.tree.structure(after) == jax.tree.structure(state)
            assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(
                lambda a: (a.shape, a.dtype), state
            )
            assert metrics["usage"].shape == (config.model.num_codebooks,)
            counters = {metrics.pop("skipped").dtype, metrics.pop("skipped_in_a_row").dtype}
            assert counters == {jnp.dtype("int32")}
            assert all(metric.dtype == jnp.float32 for metric in metrics.values())
            assert ("gan/weight" in metrics) == adversarial
        if rooms and not rooms & {"model", "data"}:
            return
        marks = {"mask": bool, "crc32": jnp.uint32}
        batch |= {key: jax.ShapeDtypeStruct((size,), dtype) for key, dtype in marks.items()}
        kinds = dict.fromkeys(networks.keys() & {"lpips"}, "float32")
        mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
        evaluator = Evaluator(config.model.to_dict(), mesh, kinds)
        _, kept = jax.eval_shape(evaluator.step, state.params, networks, batch)
        assert kept["rebuilt"].shape == (size, height, width, 3)

    def test_heads_are_the_references(self, name):
        """No shape tells the number of projection heads: trunk width / latent width."""
        from unitok_jax.models.vitamin import SIZES

        model = get_config(name).model
        assert model.quant_heads == SIZES[model.size].width // model.latent_width


class TestAblations:
    def test_codebooks_share_16384_entries(self):
        sizes = []
        for name in ("books1", "books2", "books4", "books8"):
            model = get_config(f"ablations:{name}").model
            assert model.vocab_size == 16_384
            sizes.append((model.num_codebooks, model.latent_width, model.quant_heads))
        assert sizes == [(1, 8, 96), (2, 16, 48), (4, 32, 24), (8, 64, 12)]

    @pytest.mark.parametrize("name", ["multi_codebook", "residual", "fsq", "bsq"])
    def test_quantizers_share_the_shape_of_codes(self, name):
        model = get_config(f"ablations:{name}").model
        assert model.quantizer == name
        assert (model.num_codebooks, model.vocab_size) == (8, 8 * 4096)

    @pytest.mark.parametrize("name, kept", [("reconstruction", False), ("contrastive", True)])
    def test_one_task_has_no_loss_of_the_other(self, name, kept):
        """A new reconstruction loss must be named in the contrastive variant."""
        weights = get_config(f"ablations:{name}").loss.to_dict()
        assert weights.pop("vq") == 1 and weights.pop("contrastive_kind") == "softmax"
        for key in ("entropy", "gram", "teacher_token", "teacher_relation"):
            assert weights.pop(key) == 0
        assert bool(weights.pop("contrastive")) == kept
        assert [bool(value) for value in weights.values()] == [not kept] * len(weights)

    def test_a_variant_changes_only_what_it_says(self):
        base = flat(default.get_config())
        for name, changes in ablations.VARIANTS.items():
            assert flat(get_config(f"ablations:{name}")) == base | changes, name

    @pytest.mark.parametrize(
        "name, near", [("book4", "did you mean books4"), ("", "books1, books2")]
    )
    def test_an_unknown_name_lists_the_valid_ones(self, name, near):
        with pytest.raises(ValueError, match=rf"no variant '{name}'.*{near}.*bsq"):
            ablations.get_config(name)

    def test_each_has_its_line_in_the_docs(self):
        page = (ROOT / "docs" / "explanation" / "ablations.md").read_text()
        assert [name for name in ablations.VARIANTS if f"`{name}`" not in page] == []


class TestRecipes:
    def test_a_recipe_changes_only_what_it_says(self):
        base = flat(default.get_config())
        for name, changes in recipes.VARIANTS.items():
            kind = changes.get("loss.contrastive_kind", "softmax")
            changes = changes | {"model.contrastive_kind": kind}  # one key under both names
            assert flat(get_config(f"recipes:{name}")) == base | changes, name

    @pytest.mark.parametrize(
        "name, books, entries",
        [("books16", 16, 4096), ("entries16384", 8, 16_384), ("fsq_groups", 8, 4096)],
    )
    def test_shape_of_the_codes(self, name, books, entries):
        model = get_config(f"recipes:{name}").model
        assert (model.num_codebooks, model.vocab_size) == (books, books * entries)
        assert model.latent_width == books * (6 if name == "fsq_groups" else 8)

    def test_an_unknown_name_lists_the_valid_ones(self):
        with pytest.raises(ValueError, match="no variant 'rotate'; did you mean rotation"):
            recipes.get_config("rotate")

    def test_each_has_its_section_in_the_docs(self):
        page = (ROOT / "docs" / "guides" / "recipes.md").read_text()
        names = recipes.VARIANTS | {"clip_pretraining": ...}
        assert [name for name in names if f"\n## {name}\n" not in page] == []

    def test_the_pair_on_shapes_differs_in_its_initialisation_alone(self):
        clip, one, other = (flat(get_config(f"recipes:{name}")) for name in recipes.ON_SHAPES)
        assert {key for key in one if one[key] != other[key]} == {"init.path", "init.include"}
        assert one["init.path"] == "runs/clip_pretraining" and not other["init.path"]
        assert other["loss.contrastive"] and other["data.source"] == "shapes"
        turned_off = {key for key in clip if clip[key] != other[key]}
        assert turned_off == {*("loss.l1", "loss.l2", "loss.contrastive", "checkpoint.best_metric")}
        assert clip["loss.contrastive"] == 1
        assert clip["loss.l1"] == clip["loss.l2"] == clip["gan.weight"] == 0
        assert other["loss.l1"] and other["loss.l2"]

    def test_the_constant_adversary(self):
        """The numbers of arXiv 2412.02632, table 18."""
        config = get_config("recipes:gan_constant")
        gan, optim = config.gan, config.optim
        assert (gan.weight, gan.adaptive) == (0.1, False)
        assert (gan.loss, gan.generator_loss) == ("hinge", "non_saturating")
        assert gan.start_fraction == gan.ramp_fraction == 0 and optim.schedule == "constant"
        for player in (gan, optim):
            assert player.betas == (0.9, 0.99)
            assert (player.weight_decay, player.clip_norm) == (0.05, 2)

    def test_gram_matrices_in_place_of_an_adversary(self):
        """The numbers of arXiv 2509.14476, section 3.5."""
        config = get_config("recipes:gram")
        weights = config.loss.to_dict()
        assert (weights["l1"], weights["perceptual"], weights["gram"]) == (0.2, 2, 200)
        assert (weights["l2"], weights["contrastive"], config.gan.weight) == (0, 1, 0)
        assert config.optim.ema_decay == 0.9999

    def test_images_keep_their_aspect_ratio(self):
        data = get_config("recipes:aspect_buckets").data
        assert data.crop_ratio == (1, 1) and data.crop_scale == (0.9, 1)
        assert len(bucket_sizes(data)) == 9 and data.image_size in bucket_sizes(data)

    def test_a_locked_text_side_is_all_that_is_taken_and_not_trained(self):
        config = get_config("recipes:locked_text_scratch")
        _, params = abstract_model(config.model.to_dict())
        _, trained = trees.split(params, config.optim.frozen)
        assert params.keys() - trained.keys() == {"text_encoder", "logit_scale"}
        assert config.init.include == config.optim.frozen


class TestFineTuning:
    def test_an_unknown_name_lists_the_valid_ones(self):
        with pytest.raises(ValueError, match="no variant 'decodr'; did you mean decoder"):
            finetune.get_config("decodr")

    def test_each_has_its_line_in_the_docs(self):
        page = (ROOT / "docs" / "guides" / "finetune.md").read_text()
        assert [name for name in finetune.VARIANTS if f"`{name}`" not in page] == []

    def test_the_decoder_alone_is_trained(self):
        config = get_config("finetune:decoder")
        _, params = abstract_model(config.model.to_dict())
        _, rest = trees.split(params, config.optim.frozen)
        assert list(rest) == ["decoder"]


@pytest.mark.parametrize("name", ["default", "b16", "l16"])
def test_recipe(name):
    """The numbers of the published recipe, in the configs that claim to be it."""
    config = get_config(name)
    model = config.model
    assert (model.vocab_size, model.num_codebooks, model.latent_width) == (32_768, 8, 64)
    assert (model.drop_path, model.commitment_weight, model.quantizer) == (
        0.1,
        0.25,
        "multi_codebook",
    )
    assert (config.steps, config.data.batch_size) == (78_125, 16_384)
    weights = {"l1": 0.2, "l2": 1, "perceptual": 1, "vq": 1, "contrastive": 1}
    weights |= {"gram": 0, "entropy": 0, "teacher_token": 0, "teacher_relation": 0}
    weights["contrastive_kind"] = "softmax"
    assert config.loss.to_dict() == weights
    assert config.optim.betas == (0.9, 0.95) and config.optim.eps == 1e-6
    assert (config.optim.weight_decay, config.optim.clip_norm) == (0.02, 10)
    assert (config.optim.learning_rate, config.optim.warmup_fraction) == (5e-4, 0.01)
    assert (config.optim.schedule, config.optim.final_fraction) == ("cosine", 0.1)
    assert (config.optim.ema_decay, config.optim.frozen) == (0, ())
    assert config.data.image_size == (256, 256) and config.data.decode_fraction == 1
    assert config.data.crop_scale == (0.9, 1.0) and config.data.crop_ratio == (3 / 4, 4 / 3)
    gan = config.gan
    assert (gan.weight, gan.loss, gan.consistency) == (0.4, "hinge", 4)
    assert (gan.adaptive, gan.generator_loss) == (True, "linear")
    assert (gan.start_fraction, gan.ramp_fraction, gan.blur_fraction) == (0.375, 0.03, 0.06)
    assert gan.betas == (0.5, 0.9) and (gan.weight_decay, gan.clip_norm) == (0.2, 10)
    assert (gan.learning_rate, gan.warmup_fraction, gan.final_fraction) == (2e-5, 0.03, 0.1)
    assert (gan.augment_probability, gan.crop_probability) == (1, 0.5)
    assert gan.adaptive_limits == (0.015, 1e4)


@pytest.mark.parametrize("size", ["b", "l", "xl", "xxl"])
def test_recipe_of_generators(size):
    """The numbers of the published recipe, of size XXL; labels are dropped, and an average kept."""
    config = get_config(f"generate_{size}")
    model, optim = config.model, config.optim
    assert (model.size, model.head_depth, model.head_width) == (size, 4, 0)
    assert (model.num_codebooks, model.vocab_size, model.grid) == (8, 32_768, (16, 16))
    assert (model.prompt, model.prompt_rope, model.classes) == ("class", "zero", 1000)
    assert (model.dropout, model.drop_path, config.loss.drop_prompt) == (0.1, 0, 0.1)
    assert (config.steps, config.data.batch_size) == (375_342, 1024)
    assert (optim.schedule, optim.final_fraction, optim.warmup_fraction) == ("cosine", 0, 0.03)
    assert (optim.learning_rate, optim.betas, optim.eps) == (3e-4, (0.9, 0.95), 1e-8)
    assert (optim.weight_decay, optim.clip_norm, optim.ema_decay) == (0.05, 1, 0.9999)


def test_every_key_of_the_model_is_an_argument():
    import inspect

    from unitok_jax.models import UniTok

    arguments = set(inspect.signature(UniTok.__init__).parameters) - {"self", "rngs"}
    assert set(default.get_config().model.keys()) == arguments


def test_requirements_are_the_projects():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == project["dependencies"]


def test_every_requirement_is_imported():
    names = {
        "pillow": "PIL",
        "absl-py": "absl",
        "orbax-checkpoint": "orbax",
        "opencv-python-headless": "cv2",
        "tensorflow-datasets": "tensorflow_datasets",
    }
    sources = "\n".join(
        p.read_text() for folder in ("unitok_jax", "configs") for p in (ROOT / folder).rglob("*.py")
    )
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        package = re.match(r"[\w-]+", line)[0]
        module = names.get(package, package)
        assert re.search(rf"^\s*(import|from) {module}\b", sources, re.M), package
