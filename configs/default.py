"""All keys of a run's configuration, with the values of the published base recipe.

Other configurations start from `get_config()` and set only differing keys. Any key can be set on
the command line: `--config.optim.learning_rate=1e-3`. On resuming, weights, optimiser and step
come from the newest checkpoint of the workdir, the configuration from the command line. It must
agree with the checkpoint's in every key that the meaning of the weights or of the data position
depends on (`differences.py` lists those keys). Paths may begin with `~`.
"""

import difflib

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the base recipe: UniTok-B on 1.28 billion image-text pairs, one epoch."""
    config = ConfigDict()
    config.product = "tokenizer"  # what is trained; configs/generate.py: generator
    config.seed = 0  # seed of the weights, the data order, the crops and stochastic depth
    config.steps = 78_125  # updates of the run, 1.28e9 pairs / 16 384; unit of the schedules

    # The keyword arguments of unitok_jax.models.UniTok, documented there.
    config.model = model = ConfigDict()
    model.size = "base"  # nano, tiny, small, base, large: a row of models/vitamin.py
    model.dtype = "bfloat16"  # compute dtype; parameters and the quantizer are float32
    model.residual_dtype = "float32"  # of the residual stream: docs/explanation/training_step.md
    model.quantizer = "multi_codebook"  # or residual, fsq, bsq: docs/explanation/ablations.md
    model.vocab_size = 32_768  # total rows of all codebooks, a multiple of num_codebooks
    model.num_codebooks = 8  # codes per token, 1 to 1024; the levels of residual
    model.fsq_levels = ()  # levels of the channels of a code of fsq; empty: as even as can be
    model.latent_width = 64  # quantized values per token, over all codebooks
    model.quant_proj = "attention"  # projections around the quantizer: attention or linear
    model.quant_heads = 12  # heads of the attention projections: trunk width / latent width
    model.quant_causal = False  # True: behind the quantizer no token sees one that comes after it
    model.commitment_weight = 0.25  # beta of the VQ loss, at least 0
    model.num_query = 0  # register tokens before the image tokens; 0: none
    model.drop_path = 0.1  # stochastic-depth rate of the last block, in [0, 1)
    model.embed_dim = 768  # width of the joint image-text space
    model.contrastive_kind = "softmax"  # loss of image-text pairs: softmax, or sigmoid with a bias
    model.text = ConfigDict()
    model.text.width = 768  # width of the text tower, a multiple of heads
    model.text.heads = 12  # attention heads of the text tower
    model.text.layers = 12  # transformer blocks of the text tower
    model.text.vocab_size = 49_408  # token ids of CLIP's tokenizer
    model.text.context_length = 77  # tokens per caption, at least 2; longer captions are cut
    model.remat = "blocks"  # recomputed in the backward pass: none, products, blocks, everything

    config.data = data = ConfigDict()
    data.source = "folder"  # kind of the data, or tar, parquet, ...: docs/reference/formats.md
    data.path = ""  # path of the folder, the shards, ...: depends on the source
    data.captions = ""  # path, or languages (emoji), of the captions; empty: the source's
    data.text_features = ""  # folder of `unitok data text`, for a frozen text tower; empty: none
    data.mixture = ()  # for source=mixture: (weight, source, path[, captions]) of each part
    data.window = 8  # blocks shuffled together, for sources that are read in blocks
    data.index = ""  # folder for the indexes of tars; empty: beside the shards
    data.max_bad = 0.01  # maximum fraction of unusable samples, in [0, 1]; more end the run
    data.image_size = (256, 256)  # height, width in pixels; multiples of 16
    data.size_schedule = ()  # (first fraction of the run, size) of each size; empty: image_size
    data.bucket_ratio = 0.0  # above 0: images keep their aspect ratio, up to this; 0: image_size
    data.batch_size = 16_384  # global batch size, in samples
    data.decode_fraction = 1.0  # decoded part of a batch: 1, 1/2, ...; docs/guides/many_hosts.md
    data.crop_scale = (0.9, 1.0)  # range of the area of a training crop, as a fraction of the image
    data.crop_ratio = (3 / 4, 4 / 3)  # range of the aspect ratio of a training crop
    data.context_length = model.text.get_ref("context_length")  # tokens per caption, as model.text
    data.num_threads = 16  # threads that read and decode, per process or data worker
    data.num_workers = 0  # data-worker processes that read and decode, per process; 0: none

    # Initial weights of a run without a checkpoint (docs/guides/finetune.md).
    config.init = ConfigDict()
    config.init.path = ""  # a workdir, a released or converted file, or a CLIP; empty: fresh
    config.init.include = ("*",)  # globs of the parameters to take
    config.init.training = False  # True takes the optimisers and the discriminator of a workdir too

    # Weights of the terms of the total loss, at least 0; a term of weight 0 costs nothing.
    config.loss = loss = ConfigDict()
    loss.l1 = 0.2  # weight of the mean absolute error of pixels
    loss.l2 = 1.0  # weight of the mean squared error of pixels
    loss.perceptual = 1.0  # weight of LPIPS; needs frozen.lpips
    loss.gram = 0.0  # weight of the distance of Gram matrices of LPIPS' features; as perceptual
    loss.vq = 1.0  # weight of the VQ loss, codebook and commitment terms
    loss.entropy = 0.0  # weight of the entropy loss of the codebooks
    loss.contrastive = 1.0  # weight of the image-text loss
    loss.contrastive_kind = model.get_ref("contrastive_kind")  # CLIP's softmax, SigLIP's sigmoid
    loss.teacher_token = 0.0  # weight of the loss of a teacher's tokens; needs frozen.teacher
    loss.teacher_relation = 0.0  # weight of the KL of a teacher's similarities; the same

    # A frozen network whose features the tokens learn: docs/guides/recipes.md. Not read without a
    # weight of loss.teacher_*.
    config.teacher = ConfigDict()
    config.teacher.kind = "siglip2_b16"  # a row of models/pretrained/teachers.py
    config.teacher.shallow = 0  # blocks before a second target of teacher_token; 0: none
    config.teacher.features = ""  # folder of `unitok data teacher`, for whole images; empty: none
    config.teacher.temperature = 2.0  # of both distributions of teacher_relation, above 0

    # How the rows of the codebooks learn; codes and files are the same (docs/guides/recipes.md).
    config.codebook = codebook = ConfigDict()
    codebook.gradient = "straight_through"  # of the encoder, or rotation (arXiv 2410.06424)
    codebook.learning = "loss"  # by the VQ loss, or ema: rows are moving means of what chose them
    codebook.ema_decay = 0.99  # decay of the moving means, above 0 and below 1
    codebook.wrong_share = 0.0  # share of tokens decoded from near codes at the first step; 0: none
    codebook.wrong_near = 16  # nearest rows of a row that its wrong codes are drawn from
    codebook.wrong_fraction = 0.75  # fraction of steps over which wrong_share falls to 0
    codebook.restart = 0.01  # share of an even use under which ema places a row anew; 0: never

    # The discriminator and its share of the loss. Fractions are of `steps`.
    config.gan = gan = ConfigDict()
    gan.weight = 0.4  # factor of the adaptive weight; 0: no discriminator. Needs frozen.dinov2
    gan.adaptive = True  # False: gan.weight is the weight itself, whatever the gradients
    gan.adaptive_limits = (0.015, 1e4)  # smallest and largest adaptive weight
    gan.start_fraction = 0.375  # start of the adversarial phase
    gan.ramp_fraction = 0.03  # length of the ramp of the adversarial weight from 0; 0: none
    gan.blur_fraction = 0.06  # length of the fading of the blur on the discriminator's inputs
    gan.loss = "hinge"  # loss of the discriminator: hinge, softplus, linear
    gan.generator_loss = "linear"  # loss of the generator: linear, non_saturating
    gan.consistency = 4.0  # weight of balanced consistency between two augmentations; 0: none
    gan.augment_probability = 1.0  # probability of each DiffAug transform; always 1 for consistency
    gan.crop_probability = 0.5  # probability of a crop to whole DINOv2 patches, else a resize
    gan.learning_rate = 2e-5  # peak rate of the discriminator, the release's; the paper's is 2e-4
    gan.betas = (0.5, 0.9)  # AdamW's decay rates of the two moments, each in [0, 1)
    gan.eps = 1e-6  # AdamW's epsilon, above 0
    gan.weight_decay = 0.2  # AdamW's decoupled weight decay, at least 0
    gan.clip_norm = 10.0  # maximum global norm of the discriminator's gradient, above 0
    gan.warmup_fraction = 0.03  # length of the linear warm-up, from start_fraction on
    gan.final_fraction = 0.1  # final learning rate, as a fraction of learning_rate

    # Weights of the frozen networks (docs/guides/convert_weights.md): a .safetensors from
    # `convert`, the published .pth, or "seeded": random stand-ins, for tests and for trying a run.
    config.frozen = ConfigDict()
    config.frozen.lpips = ""  # path of LPIPS with VGG16; for loss.perceptual or loss.gram > 0
    config.frozen.dinov2 = ""  # path of DINOv2 ViT-S/14; needed if gan.weight > 0
    config.frozen.teacher = ""  # path of the teacher.kind; for loss.teacher_*, unless stored
    config.frozen.inception = ""  # path of Inception, for eval/rfid; empty: not measured

    config.optim = optim = ConfigDict()
    optim.kind = "adamw"  # adamw, or muon: matrices by Muon, all else by NAdamW
    optim.schedule = "cosine"  # rate of both players: cosine, linear, exponential, constant
    optim.learning_rate = 5e-4  # peak rate of the generator, the release's; the paper's is 1e-3
    optim.betas = (0.9, 0.95)  # AdamW's decay rates of the two moments, each in [0, 1)
    optim.eps = 1e-6  # AdamW's epsilon, above 0
    optim.weight_decay = 0.02  # AdamW's decoupled weight decay, at least 0
    optim.clip_norm = 10.0  # maximum global norm of the generator's gradient, above 0
    optim.warmup_fraction = 0.01  # length of the linear warm-up from 0, as a fraction of steps
    optim.final_fraction = 0.1  # final learning rate, as a fraction of learning_rate
    optim.accumulation = 1  # micro-batches per step; divides data.batch_size
    optim.ema_decay = 0.0  # decay of the average for evaluation and export, in [0, 1); 0: none
    optim.frozen = ()  # globs of parameters that are not trained, such as ("encoder.*",)
    optim.max_skipped = 10  # consecutive skipped steps (not finite) that end the run

    # Devices along each axis. One of the two may be -1: all remaining devices
    # (docs/guides/many_hosts.md).
    config.mesh = ConfigDict()
    config.mesh.data = -1  # devices that shard the batch
    config.mesh.fsdp = 1  # devices that shard the batch and the large arrays of the state

    config.eval = ConfigDict()
    config.eval.every = 2_000  # steps between evaluations; the last step is always evaluated
    config.eval.source = ""  # as data.source; empty: the training data, resized and centre-cropped
    config.eval.path = ""  # as data.path, for eval.source
    config.eval.captions = ""  # as data.captions, for eval.source
    config.eval.batch_size = 256  # global batch size, in images
    config.eval.max_images = 5_000  # maximum number of images per evaluation, at least 1
    config.eval.grid_images = 8  # number of images in the PNG and TensorBoard pictures

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 1_000  # steps between checkpoints; the last step is always saved
    config.checkpoint.keep_latest = 2  # number of newest checkpoints to keep, at least 1
    config.checkpoint.keep_best = 1  # number of best checkpoints to keep; 0: none
    config.checkpoint.keep_every = 0  # steps; checkpoints at their multiples are kept; 0: none
    config.checkpoint.best_metric = "eval/psnr"  # metric of keep_best; the highest is best

    config.log = ConfigDict()
    config.log.every = 50  # steps between records, which hold means since the previous record
    config.log.tensorboard = True  # True writes TensorBoard files to the workdir
    config.log.wandb = ""  # project of Weights & Biases; empty: none
    config.log.parameters = False  # True logs a row for every array instead of every part
    config.log.profile_steps = ()  # first steps of traces: (10, 500); docs/guides/profile.md
    config.log.profile_count = 3  # steps per trace
    config.log.memory_profile = False  # True profiles memory after the first step of each start
    return config.lock()  # a misspelt key is an error


def variant(config: ConfigDict, variants: dict[str, dict], name: str, file: str) -> ConfigDict:
    """Applies the changes of one of several variants to `config`.

    Args:
      config: common base of the variants.
      variants: name -> {'room.key': value}, or {'key': value}.
      name: the text after the colon of `--config=configs/FILE.py:NAME`.
      file: FILE, for messages.

    Raises:
      ValueError: unknown variant; the message lists all.
    """
    if name not in variants:
        near = difflib.get_close_matches(name, variants, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(
            f"no variant {name!r}; {hint}give one as --config=configs/{file}.py:NAME, NAME one of "
            f"{', '.join(variants)}"
        )
    config.update_from_flattened_dict(variants[name])
    return config
