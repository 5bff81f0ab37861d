"""Every key of a run, once, with the values of the published base recipe.

Other configs start from `get_config()` and say what differs. Any key can be set on the command
line: `--config.optim.learning_rate=1e-3`. Where a checkpoint and the command line both speak:
weights, optimiser and step come from the newest checkpoint of the workdir; the configuration comes
from the command line, and must agree with the checkpoint's wherever it decides what the weights or
the data position mean (`differences.py` lists those keys). Paths may begin with `~`.
"""

import difflib

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The base recipe: UniTok-B on 1.28 billion image-text pairs, one epoch."""
    config = ConfigDict()
    config.seed = 0  # of the weights, the data order, the crops and stochastic depth
    config.steps = 78_125  # 1.28e9 pairs / 16 384; schedules are fractions of it

    # The keyword arguments of unitok_jax.models.UniTok, documented there.
    config.model = model = ConfigDict()
    model.size = "base"  # nano, tiny, small, base, large: a row of models/vitamin.py
    model.dtype = "bfloat16"  # of the computation; parameters and the quantizer are float32
    model.residual_dtype = "float32"  # of what the blocks add to: docs/explanation/training_step.md
    model.quantizer = "multi_codebook"  # or residual, fsq, bsq: docs/explanation/ablations.md
    model.vocab_size = 32_768  # rows of all codebooks
    model.num_codebooks = 8
    model.latent_width = 64  # of all codebooks
    model.quant_proj = "attention"  # or linear
    model.quant_heads = 12  # trunk width / latent width
    model.commitment_weight = 0.25
    model.num_query = 0
    model.drop_path = 0.1
    model.embed_dim = 768
    model.text = ConfigDict()
    model.text.width = 768
    model.text.heads = 12
    model.text.layers = 12
    model.text.vocab_size = 49_408  # CLIP's
    model.text.context_length = 77
    model.remat = "blocks"  # recompute in the backward pass: none, blocks, everything

    config.data = data = ConfigDict()
    data.source = "folder"  # or tar, parquet, ...: docs/reference/formats.md
    data.path = ""  # of the folder, the shards, ...: what it means depends on the source
    data.captions = ""  # where the captions are, if not where the source looks for them
    data.mixture = ()  # of source=mixture: (weight, source, path[, captions]) of each part
    data.window = 8  # blocks that are shuffled together, of sources that are read in blocks
    data.index = ""  # a folder for the indexes of tars; empty: beside the shards
    data.max_bad = 0.01  # of the samples may be unusable; more end the run
    data.image_size = (256, 256)  # height, width; multiples of 16
    data.batch_size = 16_384  # global
    data.decode_fraction = 1.0  # of a batch; 0.5: every second image (docs/guides/many_hosts.md)
    data.crop_scale = (0.9, 1.0)  # area of a training crop, as a part of the image
    data.crop_ratio = (3 / 4, 4 / 3)  # its aspect ratio
    data.context_length = model.text.get_ref("context_length")
    data.num_threads = 16  # that read and decode, per process
    data.num_workers = 0  # processes that do so instead, per process

    # Where a run starts that has no checkpoint yet (docs/guides/finetune.md).
    config.init = ConfigDict()
    config.init.path = ""  # a workdir, a released or converted file, or a CLIP; empty: fresh
    config.init.include = ("*",)  # globs of the parameters to take
    config.init.training = False  # also the optimisers and the discriminator, of a workdir

    # Weights of the terms of the total loss; a term of weight 0 costs nothing.
    config.loss = loss = ConfigDict()
    loss.l1 = 0.2
    loss.l2 = 1.0
    loss.perceptual = 1.0  # LPIPS; needs frozen.lpips
    loss.vq = 1.0
    loss.entropy = 0.0
    loss.contrastive = 1.0

    # The discriminator and its share of the loss. Fractions are of `steps`.
    config.gan = gan = ConfigDict()
    gan.weight = 0.4  # times the adaptive weight; 0: no discriminator. Needs frozen.dinov2
    gan.adaptive_limits = (0.015, 1e4)  # of the adaptive weight
    gan.start_fraction = 0.375  # the adversarial phase begins
    gan.ramp_fraction = 0.03  # its weight ramps up from 0
    gan.blur_fraction = 0.06  # the blur of what the discriminator sees fades to nothing
    gan.loss = "hinge"  # hinge, softplus, linear: the discriminator's
    gan.consistency = 4.0  # balanced consistency between two augmentations
    gan.augment_probability = 1.0  # of each of DiffAug's transforms; 1 in consistency's views
    gan.crop_probability = 0.5  # to whole DINOv2 patches; otherwise a resize
    gan.learning_rate = 2e-5  # the release's; the paper says 2e-4
    gan.betas = (0.5, 0.9)
    gan.eps = 1e-6
    gan.weight_decay = 0.2
    gan.clip_norm = 10.0
    gan.warmup_fraction = 0.03  # from start_fraction on
    gan.final_fraction = 0.1

    # Weights of the networks that nothing trains (docs/guides/convert_weights.md): a .safetensors
    # that `convert` made, the published .pth, or "seeded": random stand-ins, for tests and for
    # trying a run.
    config.frozen = ConfigDict()
    config.frozen.lpips = ""
    config.frozen.dinov2 = ""
    config.frozen.inception = ""  # for eval/rfid; empty: not measured

    config.optim = optim = ConfigDict()
    optim.schedule = "cosine"  # cosine, linear, exponential; of both players
    optim.learning_rate = 5e-4  # the release's; the paper says 1e-3
    optim.betas = (0.9, 0.95)
    optim.eps = 1e-6
    optim.weight_decay = 0.02
    optim.clip_norm = 10.0
    optim.warmup_fraction = 0.01  # of `steps`, linear from 0
    optim.final_fraction = 0.1  # of `learning_rate`, at the end
    optim.accumulation = 1  # micro-batches per step; divides data.batch_size
    optim.ema_decay = 0.0  # of an average that evaluation and export use; 0: none
    optim.frozen = ()  # globs of parameters that stay as they are, as ("encoder.*",)
    optim.max_skipped = 10  # steps in a row that are not finite, before the run stops

    # One of the two may be -1: whatever the devices leave (docs/guides/many_hosts.md).
    config.mesh = ConfigDict()
    config.mesh.data = -1  # batch
    config.mesh.fsdp = 1  # batch, and the large arrays of the state

    config.eval = ConfigDict()
    config.eval.every = 2_000  # steps; the last step is always evaluated
    config.eval.source = ""  # as data.source; empty: the training data, resized and centre-cropped
    config.eval.path = ""
    config.eval.captions = ""
    config.eval.batch_size = 256  # global
    config.eval.max_images = 5_000
    config.eval.grid_images = 8  # in the PNG and TensorBoard pictures

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 1_000  # steps; the last step is always saved
    config.checkpoint.keep_latest = 2
    config.checkpoint.keep_best = 1
    config.checkpoint.keep_every = 0  # steps; their multiples stay for ever; 0: none
    config.checkpoint.best_metric = "eval/psnr"  # highest is best

    config.log = ConfigDict()
    config.log.every = 50  # steps; values are means since the last line
    config.log.tensorboard = True
    config.log.wandb = ""  # a project of Weights & Biases to write to; empty: none
    config.log.parameters = False  # every array in the log, not a row for each part
    config.log.profile_steps = ()  # where traces begin, as (10, 500): docs/guides/profile.md
    config.log.profile_count = 3  # steps of a trace
    config.log.memory_profile = False  # after the first step of every start
    return config.lock()  # a config that misspells a key must fail


def variant(config: ConfigDict, variants: dict[str, dict], name: str, file: str) -> ConfigDict:
    """`config` with the changes of one of several variants.

    Args:
      config: what the variants start from.
      variants: name -> {'room.key': value}.
      name: the text after the colon of `--config=configs/FILE.py:NAME`.
      file: FILE, for messages.

    Raises:
      ValueError: there is no such variant; the message lists all.
    """
    if name not in variants:
        near = difflib.get_close_matches(name, variants, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(
            f"no variant {name!r}; {hint}give one as --config=configs/{file}.py:NAME, NAME one of "
            f"{', '.join(variants)}"
        )
    for key, value in variants[name].items():
        room, leaf = key.split(".")
        config[room][leaf] = value
    return config
