"""Values that do not fit are refused before anything is built, with the key and what to set."""

import functools
import types

import pytest

from configs import default, tiny, tiny_full
from unitok_jax.tokenizer import losses
from unitok_jax.tokenizer.config_checks import check, check_beginning
from unitok_jax.tokenizer.run import Run

pytestmark = pytest.mark.slow

PACKED = {"data.source": "array_record"}
NAN = float("nan")


def test_the_configurations_that_come_with_it_pass():
    check(default.get_config())
    check(tiny_full.get_config())


def test_a_teachers_stored_features_go_beside_those_of_the_text_tower():
    """The teacher reads no caption then."""
    config = tiny_full.get_config()
    config.loss.teacher_relation, config.teacher.kind = 1.0, "clip_b16"
    config.data.crop_scale = config.data.crop_ratio = (1.0, 1.0)
    config.data.text_features = config.teacher.features = "some folder"
    check(config)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"loss.l1": -0.1}, r"loss\.l1=-0\.1 must not be negative"),
        ({"loss.gram": -200.0}, r"loss\.gram=-200\.0 must not be negative"),
        (
            {"gan.generator_loss": "hinge"},
            r"gan\.generator_loss='hinge' is not one of linear, non_saturating",
        ),
        (
            {"loss.perceptual": 0.0, "loss.gram": 200.0, "data.image_size": (32, 64)},
            r"loss\.gram=200\.0 needs images of at least 48 px, .*=\(32, 64\); set loss\.gram=0",
        ),
        (
            {"loss.contrastive": 0.0, "checkpoint.best_metric": "eval/image_to_text"},
            r"checkpoint\.best_metric=eval/image_to_text is not measured with loss\.contrastive=0 "
            r"and loss\.teacher_relation=0; set it to eval/psnr",
        ),
        ({"loss.perceptual": -1.0}, r"loss\.perceptual=-1\.0 must not be negative"),
        ({"gan.weight": -0.4}, r"gan\.weight=-0\.4 must not be negative"),
        ({"gan.consistency": -4.0}, r"gan\.consistency=-4\.0 must not be negative"),
        ({"gan.start_fraction": 1.0}, r"gan\.start_fraction=1\.0 of steps=200 leaves .* no step"),
        ({"gan.start_fraction": 1.5}, r"gan\.start_fraction=1\.5 .*gan\.weight=0"),
        ({"gan.start_fraction": -0.1}, r"gan\.start_fraction=-0\.1"),
        ({"gan.loss": "hing"}, r"gan\.loss='hing' is not one of hinge, softplus, linear"),
        ({"gan.betas": (0.5,)}, r"gan\.betas=\(0\.5,\) must hold two values"),
        ({"gan.adaptive_limits": (2.0, 1.0)}, r"gan\.adaptive_limits=\(2\.0, 1\.0\)"),
        ({"gan.augment_probability": 1.1}, r"gan\.augment_probability=1\.1 must lie between"),
        (
            {"loss.l1": 0.0, "loss.l2": 0.0, "loss.perceptual": 0.0},
            r"gan\.weight=0\.4 is relative to .*loss\.l1, .*, loss\.gram are all 0",
        ),
        ({"teacher.kind": "dinov2"}, r"teacher\.kind='dinov2' is not one of dinov2_b14, "),
        ({"teacher.temperature": 0.0}, r"teacher\.temperature=0\.0 divides .* above 0"),
        ({"teacher.temperature": -2.0}, r"teacher\.temperature=-2\.0 divides"),
        ({"teacher.temperature": NAN}, r"teacher\.temperature=nan divides"),
        ({"teacher.shallow": 12}, r"teacher\.shallow=12 .*teacher\.kind=siglip2_b16, .* 12;"),
        ({"teacher.shallow": -1}, r"teacher\.shallow=-1 is not a number of blocks"),
        ({"loss.teacher_token": -1.0}, r"loss\.teacher_token=-1\.0 must not be negative"),
        (
            {"loss.teacher_relation": 1.0},
            r"teacher\.kind=siglip2_b16 has no text tower .* clip_b16, clip_l14",
        ),
        (
            {"loss.teacher_relation": 1.0, "loss.contrastive": 0.0, "data.batch_size": 1}
            | {"teacher.kind": "clip_b16"},
            r"data\.batch_size=1 leaves loss\.teacher_relation=1\.0 no other pair",
        ),
        (
            {"loss.teacher_relation": 1.0, "teacher.kind": "clip_b16", "data.context_length": 80},
            r"teacher\.kind=clip_b16 reads 77 tokens.*data\.context_length=80",
        ),
        (
            {"loss.teacher_relation": 1.0, "teacher.kind": "clip_b16", "data.text_features": "t"},
            r"teacher_relation=1\.0 reads captions, and data\.text_features=t holds features",
        ),
        ({"data.image_size": (32, 64)}, r"loss\.perceptual=1\.0 needs images of at least 48 px"),
        ({"data.bucket_ratio": 2.0}, r"data\.bucket_ratio=2\.0 needs .*source=photos .* data pack"),
        (PACKED | {"data.bucket_ratio": 0.9}, r"data\.bucket_ratio=0\.9 is the longer side"),
        (
            PACKED | {"data.bucket_ratio": 2.0, "data.size_schedule": ((0, 48), (0.5, 64))},
            r"data\.bucket_ratio=2\.0 has sizes of its own, .*data\.size_schedule=\(\(0, 48\),",
        ),
        (
            PACKED | {"data.bucket_ratio": 4.0},
            r"loss\.perceptual=1\.0 needs .* 48 px, but data\.bucket_ratio=4\.0; set",
        ),
        (
            {"loss.contrastive_kind": "siglip"},
            r"loss\.contrastive_kind='siglip' is not one of softmax, sigmoid",
        ),
        ({"data.batch_size": 1}, r"data\.batch_size=1 leaves loss\.contrastive=1\.0 no other pair"),
        ({"optim.accumulation": 3}, r"optim\.accumulation=3 does not divide data\.batch_size=16"),
        ({"optim.accumulation": 0}, r"optim\.accumulation=0 must be at least 1"),
        (
            {"optim.kind": "adam"},
            r"optim\.kind='adam' is not one of adamw, muon",
        ),
        (
            {"optim.schedule": "cosin"},
            r"optim\.schedule='cosin' is not one of cosine, .*constant",
        ),
        (
            {"optim.schedule": "exponential", "optim.final_fraction": 0.0},
            r"optim\.schedule=exponential never reaches optim\.final_fraction=0",
        ),
        ({"optim.ema_decay": 1.0}, r"optim\.ema_decay=1\.0 must be at least 0 and below 1"),
        ({"optim.learning_rate": -1.0}, r"optim\.learning_rate=-1\.0 must not be negative"),
        ({"optim.learning_rate": float("nan")}, r"optim\.learning_rate=nan is not a finite"),
        ({"optim.clip_norm": -1.0}, r"optim\.clip_norm=-1\.0 must be above 0"),
        ({"gan.eps": 0.0}, r"gan\.eps=0\.0 must be above 0"),
        ({"optim.betas": (0.9, 1.0)}, r"optim\.betas=\(0\.9, 1\.0\) must be at least 0 and below"),
        ({"model.commitment_weight": -0.2}, r"model\.commitment_weight=-0\.2 must be at least 0"),
        ({"model.drop_path": 1.0}, r"model\.drop_path=1\.0 must be at least 0 and below 1"),
        (
            {"model.num_codebooks": 10**7},
            r"model\.num_codebooks=10000000 must be an integer from 1",
        ),
        ({"data.image_size": (16 * 10**9, 64)}, r"data\.image_size=.*16000000000 is over 8192"),
        (
            {"model.quantizer": "fsq", "loss.entropy": 0.1},
            r"loss\.entropy=0\.1 has no meaning for model\.quantizer=fsq",
        ),
        ({"optim.max_skipped": 0}, r"optim\.max_skipped=0 must be at least 1"),
        ({"log.profile_count": 0}, r"log\.profile_count=0 must be at least 1"),
        ({"log.profile_steps": (0,)}, r"log\.profile_steps=\(0,\): 0 is no step from 1 to steps"),
        ({"log.profile_steps": (9, 201)}, r"log\.profile_steps=\(9, 201\): 201 is no .*steps=200"),
        ({"log.profile_steps": (2.5,)}, r"log\.profile_steps=\(2\.5,\): 2\.5 is no step"),
        (
            {"log.profile_steps": (9, 7)},
            r"log\.profile_steps=\(9, 7\): .*profile_count=3 steps from 7 on is not over at 9",
        ),
        (
            {"init.training": True, "init.path": "a", "init.include": ("encoder.*",)},
            r"init\.training=True takes all of init\.path",
        ),
    ],
)
def test_bad_values(changes, message):
    config = tiny_full.get_config()
    for key, value in changes.items():
        room, leaf = key.split(".")
        config[room][leaf] = value
    with pytest.raises(ValueError, match=message):
        check(config)


@pytest.mark.parametrize(
    "room, key, value, message",
    [
        (
            "optim",
            "frozen",
            ("encoder.*",),
            r"optim\.frozen=.*would keep random weights.*init\.path",
        ),
        ("init", "training", True, r"init\.training=True needs init\.path"),
    ],
)
def test_what_does_not_begin_anew_comes_from_somewhere(room, key, value, message):
    """For a run: what a step costs is known without the file."""
    config = tiny_full.get_config()
    config[room][key] = value
    check(config)
    with pytest.raises(ValueError, match=message):
        check_beginning(config)
    config.init.path = "a"
    check_beginning(config)


def test_a_constant_weight_needs_no_losses_of_pixels():
    config = tiny_full.get_config()
    config.gan.adaptive = False
    for key in losses.PIXEL_TERMS:
        config.loss[key] = 0.0
    check(config)


@pytest.mark.parametrize(
    "weights, remedy",
    [
        ({"gram": 200.0}, r"loss\.gram=0;"),
        ({"gram": 200.0, "perceptual": 2.0}, r"loss\.perceptual=0 and loss\.gram=0;"),
    ],
    ids=["gram", "both"],
)
def test_a_loss_of_lpips_without_lpips(weights, remedy):
    config = tiny.get_config()
    config.loss.update(weights)
    words = r"^frozen\.lpips='': no file is named\. .* LPIPS .*; without the network: "
    with pytest.raises(FileNotFoundError, match=words + remedy):
        Run(config)


def test_one_kind_of_contrastive_loss_under_both_names():
    for key in ("loss", "model"):
        config = tiny_full.get_config()
        config[key].contrastive_kind = "sigmoid"
        assert config.loss.contrastive_kind == config.model.contrastive_kind == "sigmoid"
        check(config)
    config = tiny_full.get_config().copy_and_resolve_references()
    config.loss.contrastive_kind = "sigmoid"
    with pytest.raises(ValueError, match=r"loss\.contrastive_kind='sigmoid' needs the same model"):
        check(config)


def test_nothing_to_learn():
    config = tiny_full.get_config()
    config.gan.weight = 0.0
    for key in ("l1", "l2", "perceptual", "contrastive"):
        config.loss[key] = 0.0
    with pytest.raises(ValueError, match="are all 0: nothing to learn"):
        check(config)


def test_a_depth_of_millions_is_the_line_that_weights_of_others_get():
    config = tiny_full.get_config()
    config.model.text.layers = 10**7
    with pytest.raises(ValueError, match=r"^model\.text\.layers=10000000 must be .* 1 to 1024$"):
        check(config)


class TestMessages:
    """What a person who sets one key too far reads: the key, the value, and what to set."""

    @pytest.mark.parametrize(
        "key, value, words",
        [
            ("seed", -1, ["must not be negative"]),
            ("steps", 0, ["must be at least 1"]),
            ("data.source", "webdataset", ["did you mean 'tar'"]),
            ("data.source", "ImageFolder", ["did you mean 'labelled'"]),
            ("data.source", "hf", ["did you mean 'parquet'"]),
            ("data.source", "fodler", ["did you mean 'folder'"]),
            ("data.source", "folder", ["data.path is empty", "--config.data.path="]),
            ("data.batch_size", 0, ["must be at least 1"]),
            ("data.batch_size", -8, ["must be at least 1"]),
            ("data.batch_size", 12, ["is not a multiple of 8", "nearest: 8 or 16"]),
            ("data.batch_size", 3, ["of 8", "nearest: 8"]),
            ("data.image_size", (0, 0), ["multiple of 16", "nearest: 16"]),
            ("data.image_size", (64, 64, 3), ["(height, width)"]),
            ("data.image_size", (), ["(height, width)"]),
            ("data.image_size", (64.0, 64.0), ["(height, width)"]),
            ("data.max_bad", 1.5, ["between 0 and 1"]),
            ("data.max_bad", NAN, ["between 0 and 1"]),
            ("data.crop_scale", (0.5, 1.5), ["a smaller and a larger one", "at most 1"]),
            ("data.crop_scale", (0.9,), ["two values"]),
            ("data.crop_ratio", (2.0, 1.0), ["a smaller and a larger one"]),
            ("data.crop_ratio", (1.0, float("inf")), ["a smaller and a larger one"]),
            ("data.crop_ratio", ("a", "b"), ["two values, both numbers"]),
            ("data.decode_fraction", NAN, ["1, 1/2, 1/3"]),
            ("data.num_threads", 0, ["must be at least 1"]),
            ("data.num_workers", -1, ["must not be negative"]),
            ("model.size", "bse", ["did you mean 'base'"]),
            ("model.dtype", "float16", ["float32, bfloat16"]),
            ("model.remat", "all", ["none, products, blocks, everything"]),
            ("model.quantizer", "vq", ["multi_codebook, residual, fsq, bsq"]),
            ("model.quant_proj", "conv", ["attention", "linear"]),
            ("model.quant_heads", 5, ["does not divide", "nearest: 4"]),
            ("model.quant_heads", 0, ["must be an integer from 1 to "]),
            ("model.num_codebooks", 3, ["does not divide model.vocab_size=256"]),
            ("model.num_codebooks", 0, ["must be an integer from 1 to "]),
            ("model.latent_width", -32, ["must be an integer from 1 to "]),
            ("model.embed_dim", 0, ["must be an integer from 1 to "]),
            ("model.num_query", -1, ["must be an integer from 0 to "]),
            ("model.drop_path", NAN, ["at least 0 and below 1"]),
            ("model.text.heads", 5, ["does not divide model.text.width=64"]),
            ("model.text.layers", 0, ["must be an integer from 1 to "]),
            ("model.text.context_length", 1, ["must be an integer from 2 to "]),
            ("optim.learning_rate", NAN, ["not a finite number"]),
            ("optim.warmup_fraction", 1.5, ["between 0 and 1"]),
            ("optim.warmup_fraction", NAN, ["between 0 and 1"]),
            ("optim.betas", (0.9, 0.9, 0.9), ["two values"]),
            ("optim.betas", (NAN, 0.9), ["below 1"]),
            ("optim.frozen", (1,), ["globs of parameters"]),
            ("init.include", (1,), ["globs of parameters"]),
            ("init.path", "/no/such/file", []),
            ("mesh.data", 3, ["the 8 devices of this job"]),
            ("eval.source", "wds", ["did you mean 'tar'"]),
            ("eval.batch_size", 0, ["must be at least 1"]),
        ],
    )
    def test_of_one_key(self, key, value, words):
        config = tiny.get_config()
        *rooms, leaf = key.split(".")
        functools.reduce(getattr, rooms, config)[leaf] = value
        if key == "init.path":
            run = Run(config)
            run.programs = types.SimpleNamespace()  # so that nothing is compiled
            with pytest.raises(OSError, match="init.path=/no/such/file: there is no such file"):
                run.initial_state()
            return
        with pytest.raises(ValueError) as error:
            Run(config)
        message = str(error.value)
        assert "\n" not in message and f"{key}" in message
        assert all(word in message for word in words), message
        told = value if not isinstance(value, str) else repr(value)
        assert str(told) in message or key == "data.source" and value == "folder", message

    def test_adversary_without_a_step(self):
        config = tiny_full.get_config()
        config.gan.start_fraction = NAN
        with pytest.raises(ValueError, match="gan.start_fraction=nan of steps=200"):
            check(config)
