"""Checks that the values of a configuration fit each other, before anything is built."""

import math

from ml_collections import ConfigDict

from unitok_jax.data import buckets
from unitok_jax.data.images.transforms import check_size
from unitok_jax.data.text import END_OF_TEXT
from unitok_jax.models import limits
from unitok_jax.models.pretrained.teachers import KINDS
from unitok_jax.tokenizer import codebooks
from unitok_jax.tokenizer.losses import (
    CONTRASTIVE,
    DISCRIMINATOR_LOSSES,
    GENERATOR_LOSSES,
    NETWORK_TERMS,
    OF_PAIRS,
    PIXEL_TERMS,
    TERMS,
)
from unitok_jax.tokenizer.sizes import stages
from unitok_jax.tokenizer.times import Times
from unitok_jax.training import config_checks
from unitok_jax.training.config_checks import (
    adamw,
    at_least_one,
    at_least_zero,
    in_unit_range,
    two_values,
)

_OF_TEXTS = ("eval/image_to_text", "eval/text_to_image")
MIN_PERCEPTUAL = 48  # pixels of a side, below which the reference leaves LPIPS out


def check(config: ConfigDict) -> None:
    """Checks the values of a configuration, before anything is built.

    Raises:
      ValueError: the message names the key, its value and a remedy.
    """
    check_size(config.data.image_size)
    at_least_one("steps", config.steps)  # the unit of the schedule of sizes
    sizes = [stage.size for stage in stages(config.steps, config.data)]
    if config.data.bucket_ratio:
        sizes += _bucket_sizes(config.data)
    shortest = min(side for size in sizes for side in size)
    limits.check(config.model.to_dict())
    config_checks.check(config, ("eval/psnr", *_OF_TEXTS))
    for key, value in {
        "eval.grid_images": config.eval.grid_images,
        "data.window": config.data.window,
        "optim.accumulation": config.optim.accumulation,
    }.items():
        at_least_one(key, value)
    in_unit_range("data.max_bad", config.data.max_bad)
    _crop_range("data.crop_scale", config.data.crop_scale, 1.0)
    _crop_range("data.crop_ratio", config.data.crop_ratio, math.inf)
    if config.model.text.vocab_size <= END_OF_TEXT:
        raise ValueError(
            f"model.text.vocab_size={config.model.text.vocab_size} has no row for the token ids of "
            f"captions, which reach {END_OF_TEXT}; set it to {END_OF_TEXT + 1}"
        )
    if config.eval.path and not config.eval.source:
        raise ValueError(
            f"eval.path={config.eval.path} is not read without eval.source; set it to folder"
        )
    fraction = config.data.decode_fraction
    if not 0 < fraction <= 1 or abs(round(1 / fraction) * fraction - 1) > 1e-3:
        raise ValueError(
            f"data.decode_fraction={fraction} is not 1, 1/2, 1/3, ...: every image, every second, "
            "every third is decoded"
        )
    _check_losses(config, shortest)
    _check_teacher(config)
    _check_optim(config)
    _check_gan(config)
    codebooks.check(config)


def _bucket_sizes(data):
    if data.size_schedule:
        raise ValueError(
            f"{buckets.KEY}={data.bucket_ratio} has sizes of its own, beside data.size_schedule="
            f"{tuple(data.size_schedule)}; set data.size_schedule=(), or {buckets.KEY}=0"
        )
    if data.source != "array_record":
        raise ValueError(
            f"{buckets.KEY}={data.bucket_ratio} needs the sizes of all images, which data.source="
            f"{data.source} does not tell; {buckets.PACK}"
        )
    return buckets.bucket_sizes(data)


def _check_losses(config, shortest):
    if config.loss.entropy and config.model.quantizer == "fsq":
        raise ValueError(
            f"loss.entropy={config.loss.entropy} has no meaning for model.quantizer=fsq, which "
            "has no codebook rows; set loss.entropy=0"
        )
    for name in TERMS:
        at_least_zero(f"loss.{name}", config.loss[name])
    kind = config.loss.contrastive_kind
    if kind not in CONTRASTIVE:
        raise ValueError(
            f"loss.contrastive_kind={kind!r} is not one of {', '.join(CONTRASTIVE)}; "
            "model.contrastive_kind is the same key"
        )
    if kind != config.model.contrastive_kind:
        raise ValueError(
            f"loss.contrastive_kind={kind!r} needs the same model.contrastive_kind, not "
            f"{config.model.contrastive_kind!r}"
        )
    # The VQ and the entropy loss belong to no task.
    tasks = [name for name, term in TERMS.items() if name not in ("vq", "entropy")]
    if not any(config.loss[key] for key in tasks):
        *names, last = (f"loss.{key}" for key in tasks)
        raise ValueError(f"{', '.join(names)} and {last} are all 0: nothing to learn")
    best = config.checkpoint.best_metric
    if best in _OF_TEXTS and not any(config.loss[key] for key in OF_PAIRS):
        raise ValueError(
            f"checkpoint.best_metric={best} is not measured with "
            f"{' and '.join(f'loss.{key}=0' for key in OF_PAIRS)}; set it to eval/psnr"
        )
    keys = ("size_schedule", "bucket_ratio")
    key = next((key for key in keys if config.data[key]), "image_size")
    for name in NETWORK_TERMS:
        if config.loss[name] and shortest < MIN_PERCEPTUAL:
            raise ValueError(
                f"loss.{name}={config.loss[name]} needs images of at least {MIN_PERCEPTUAL} px, "
                f"but data.{key}={_plain(config.data[key])}; set loss.{name}=0"
            )
    if config.data.text_features and not config.loss.contrastive:
        raise ValueError(
            f"data.text_features={config.data.text_features} is not read with loss.contrastive=0; "
            "set data.text_features='', or a weight"
        )
    for key in OF_PAIRS:
        if config.loss[key] and config.data.batch_size == 1:
            raise ValueError(
                f"data.batch_size=1 leaves loss.{key}={config.loss[key]} no other pair to tell a "
                f"pair from; set a larger batch or loss.{key}=0"
            )


def _check_teacher(config):
    teacher, relation = config.teacher, config.loss.teacher_relation
    if teacher.kind not in KINDS:
        raise ValueError(f"teacher.kind={teacher.kind!r} is not one of {', '.join(KINDS)}")
    kind = KINDS[teacher.kind]
    if not 0 <= teacher.shallow < kind.image.depth:
        raise ValueError(
            f"teacher.shallow={teacher.shallow} is not a number of blocks before the last of "
            f"teacher.kind={teacher.kind}, which has {kind.image.depth}; 0 takes no second target"
        )
    if not 0 < teacher.temperature < math.inf:
        raise ValueError(
            f"teacher.temperature={teacher.temperature} divides similarities; set it above 0"
        )
    if relation and kind.text is None:
        able = ", ".join(name for name, row in KINDS.items() if row.text)
        raise ValueError(
            f"loss.teacher_relation={relation} compares images with texts, and teacher.kind="
            f"{teacher.kind} has no text tower that reads CLIP's tokens; set teacher.kind to one "
            f"of {able}, or loss.teacher_relation=0"
        )
    if relation and config.data.text_features and not teacher.features:
        raise ValueError(
            f"loss.teacher_relation={relation} reads captions, and data.text_features="
            f"{config.data.text_features} holds features in their place; set one of them to 0 or "
            "'', or store the teacher's features too (teacher.features)"
        )
    length = config.data.context_length
    if relation and length > kind.text.context_length:
        raise ValueError(
            f"loss.teacher_relation={relation}: the text tower of teacher.kind={teacher.kind} "
            f"reads {kind.text.context_length} tokens, and captions have data.context_length="
            f"{length}; set model.text.context_length to {kind.text.context_length}"
        )
    if teacher.features:
        check_stored_teacher(config, f"teacher.features={teacher.features}")


def check_stored_teacher(config: ConfigDict, what: str) -> None:
    """Checks that a teacher's features can be stored, or read, for a configuration.

    Args:
      config: the whole configuration, otherwise valid.
      what: the key and folder of the features, or the command that stores them, for messages.

    Raises:
      ValueError: no loss takes them, or images are not always the same.
    """
    if not config.loss.teacher_token and not config.loss.teacher_relation:
        raise ValueError(
            f"{what}: no loss takes a teacher's features with loss.teacher_token=0 and "
            "loss.teacher_relation=0; set one of the weights"
        )
    for key in ("crop_scale", "crop_ratio"):
        if tuple(config.data[key]) != (1, 1):
            raise ValueError(
                f"{what} is of whole images, and data.{key}={tuple(config.data[key])} shows others "
                f"at every epoch; set data.{key}=(1, 1)"
            )
    for key, none in (("size_schedule", ()), ("bucket_ratio", 0)):
        if value := config.data[key]:
            raise ValueError(
                f"{what} is of images of one size, and data.{key}={value} trains on several; set "
                f"data.{key}={none}"
            )


def _check_gan(config):
    gan = config.gan
    at_least_zero("gan.weight", gan.weight)
    if not gan.weight:
        return
    if gan.loss not in DISCRIMINATOR_LOSSES:
        raise ValueError(f"gan.loss={gan.loss!r} is not one of {', '.join(DISCRIMINATOR_LOSSES)}")
    if gan.generator_loss not in GENERATOR_LOSSES:
        raise ValueError(
            f"gan.generator_loss={gan.generator_loss!r} is not one of {', '.join(GENERATOR_LOSSES)}"
        )
    for key in ("consistency", "learning_rate", "weight_decay", "ramp_fraction", "blur_fraction"):
        at_least_zero(f"gan.{key}", gan[key])
    for key in ("augment_probability", "crop_probability", "warmup_fraction", "final_fraction"):
        in_unit_range(f"gan.{key}", gan[key])
    starts = 0 <= gan.start_fraction <= 1
    if starts:
        times = Times.from_fractions(config.steps, config.optim, gan)
        starts = times.gan_start < config.steps - 1
    if not starts:
        raise ValueError(
            f"gan.start_fraction={gan.start_fraction} of steps={config.steps} leaves the "
            "discriminator no step; set it between 0 and 1, or gan.weight=0"
        )
    if gan.adaptive and not any(config.loss[key] for key in PIXEL_TERMS):
        raise ValueError(
            f"gan.weight={gan.weight} is relative to the gradient of the losses of pixels, and "
            f"{', '.join(f'loss.{key}' for key in PIXEL_TERMS)} are all 0; set one, or gan.weight=0"
        )
    adamw("gan", gan)
    two_values("gan.adaptive_limits", gan.adaptive_limits)
    if not 0 <= gan.adaptive_limits[0] <= gan.adaptive_limits[1]:
        raise ValueError(
            f"gan.adaptive_limits={tuple(gan.adaptive_limits)} must be a smaller and a larger one"
        )


def _check_optim(config):
    optim = config.optim
    if optim.schedule == "exponential" and not optim.final_fraction * config.gan.final_fraction:
        raise ValueError(
            "optim.schedule=exponential never reaches optim.final_fraction=0 or "
            "gan.final_fraction=0; set them above 0"
        )
    if config.data.batch_size % optim.accumulation:
        raise ValueError(
            f"optim.accumulation={optim.accumulation} does not divide "
            f"data.batch_size={config.data.batch_size} into micro-batches of one size"
        )
    for key, globs in {"init.include": config.init.include, "optim.frozen": optim.frozen}.items():
        if not all(isinstance(glob, str) for glob in globs):
            raise ValueError(f"{key}={tuple(globs)} must hold globs of parameters: ('encoder.*',)")
    if config.init.training and tuple(config.init.include) != ("*",):
        raise ValueError(
            f"init.training=True takes all of init.path, not init.include={config.init.include}"
        )


def check_beginning(config: ConfigDict) -> None:
    """Checks that a run is told where what it does not begin anew comes from.

    Raises:
      ValueError: `init.training` or `optim.frozen` without `init.path`.
    """
    if config.init.training and not config.init.path:
        raise ValueError("init.training=True needs init.path, the workdir to take it from")
    if config.optim.frozen and not config.init.path:
        raise ValueError(
            f"optim.frozen={tuple(config.optim.frozen)} would keep random weights as they are; set "
            "init.path to trained ones"
        )


def _plain(value):
    return value if isinstance(value, int | float) else tuple(value)


def _crop_range(key, values, largest):
    two_values(key, values)
    if not 0 < values[0] <= values[1] <= largest or not math.isfinite(values[1]):
        bound = "" if math.isinf(largest) else f", at most {largest:g}"
        raise ValueError(f"{key}={tuple(values)} must be a smaller and a larger one above 0{bound}")
