"""All keys of a multimodal model's run, with the values of the published model of 7 B parameters.

Any key can be set on the command line: `--config.data.length=1024`. Resuming is as for a tokenizer:
`configs/default.py`. Paths may begin with `~`.
"""

from ml_collections import ConfigDict

from unitok_jax.models.vitamin import SIZES


def get_config() -> ConfigDict:
    """Returns the configuration of a model on Llama-2-7B and the published tokenizer."""
    config = ConfigDict()
    config.product = "multimodal"  # what is trained; configs/default.py: tokenizer
    config.seed = 0  # seed of the weights, the data order and the draws
    config.steps = 70_000  # updates of the run; unit of the schedules

    # The keyword arguments of unitok_jax.multimodal.model.Multimodal, documented there.
    config.model = model = ConfigDict()
    model.vocabulary = 32_000  # text ids
    model.width = 4096  # width of the language model
    model.heads = 32  # attention heads
    model.groups = 32  # heads of keys and values, a divisor of heads
    model.head_width = 128  # width of an attention head
    model.hidden = 11_008  # width of SwiGLU
    model.depth = 32  # blocks
    model.epsilon = 1e-5  # of the RMSNorms
    model.rope_base = 10_000.0  # base of the rotary frequencies
    # Scaling of the rotary frequencies for long contexts, Llama-3's; a factor of 1 is none.
    model.rope_scaling = ConfigDict()
    model.rope_scaling.factor = 1.0  # stretch of the long waves
    model.rope_scaling.low = 1.0  # waves longer than original / low are stretched
    model.rope_scaling.high = 4.0  # waves shorter than original / high stay
    model.rope_scaling.original = 8192  # positions of the pretraining
    model.qkv_bias = False  # True has a bias on queries, keys and values: Qwen2
    model.qk_norm = False  # True normalises queries and keys head by head: Qwen3
    model.tied = False  # True takes logits of text by the table of ids
    model.num_codebooks = 8  # codes per token, the tokenizer's
    model.vocab_size = 32_768  # total rows of all codebooks, the tokenizer's
    model.latent_width = 64  # quantized values per token, the tokenizer's
    model.grid = (16, 16)  # rows and columns of visual tokens, the codes'
    model.projection = "causal"  # of the codes' vectors: causal, as published; full; or linear
    model.projection_width = 1024  # width of the projected tokens, the tokenizer's
    model.projection_heads = 16  # attention heads of the projection, the tokenizer's
    model.head_depth = 3  # blocks of the depth head; 0: codes of a token that are independent
    model.depth_head_width = 0  # width of the depth head; 0: the decoder's
    model.remat = "blocks"  # recomputed in the backward pass: none, products, blocks
    model.dtype = "bfloat16"  # compute dtype; parameters, stream and logits are float32

    config.data = data = ConfigDict()
    data.mixture = ()  # (weight, kind, path[, codes]) of each part: draw, caption, questions, ...
    data.text = ""  # folder with a tokenizer.json, or shapes: the words of drawn shapes
    data.tokenizer = ""  # tokenizer of the codes: codebooks and projection to begin with
    data.length = 2048  # ids and visual tokens of a row; longer samples are left out and counted
    data.images = 0  # images that a row can hold; 0: as many as have room
    data.caption_ids = 1750  # ids of a caption, at most; the rest is cut
    data.unconditional = 0.1  # share of drawn images without their caption, in [0, 1]
    data.questions = 1  # questions in turn about a picture of shapes, at most; kind questions
    data.bare_images = False  # True has no ids around images of conversations, as the release
    data.template = ""  # words of a conversation: vicuna, llama3, chatml, plain; empty: what fits
    data.group_rows = 8  # rows that are packed together
    data.group_samples = 32  # samples that are read for them; what has no room is left out
    data.window = 8  # row groups shuffled together, for texts in Parquet
    data.max_bad = 0.01  # maximum fraction of unusable samples, in [0, 1]; more end the run
    data.batch_size = 1024  # global batch size, in rows
    data.num_threads = 16  # threads that read, per process or data worker
    data.num_workers = 0  # data-worker processes that read, per process; 0: none

    config.loss = ConfigDict()
    config.loss.text_weight = 1.0  # of an id, where a code of an image weighs 1
    config.loss.z_weight = 5e-5  # of the mean over the codes of the squared largest logit
    config.loss.chunk = 128  # positions for each row whose logits exist at a time

    config.init = ConfigDict()
    config.init.path = ""  # multimodal model to begin from, all of it; empty: the two below
    config.init.language = ""  # folder of Llama, Qwen2 or Qwen3, or hf://owner/name; empty: fresh

    config.optim = optim = ConfigDict()
    optim.kind = "adamw"  # adamw, or muon: matrices by Muon, all else by NAdamW
    optim.schedule = "cosine"  # learning-rate schedule: cosine, linear, exponential, constant
    optim.learning_rate = 5e-5  # peak rate
    optim.betas = (0.9, 0.999)  # AdamW's decay rates of the two moments, each in [0, 1)
    optim.eps = 1e-8  # AdamW's epsilon, above 0
    optim.weight_decay = 0.0  # AdamW's decoupled weight decay, at least 0
    optim.clip_norm = 1.0  # maximum global norm of the gradient, above 0
    optim.warmup_fraction = 0.03  # length of the linear warm-up from 0, as a fraction of steps
    optim.final_fraction = 0.0  # learning rate after the last step, as a fraction of the peak
    optim.accumulation = 4  # parts of a batch whose gradients are added before an update
    optim.frozen = ()  # globs of parameters that are not trained, beside the codebooks
    optim.lora_rank = 0  # of adapters trained beside the decoder's linear layers (LoRA); 0: none
    optim.max_skipped = 10  # consecutive skipped steps (not finite) that end the run

    # Devices along each axis. One of the two may be -1: all remaining devices.
    config.mesh = ConfigDict()
    config.mesh.data = 1  # devices that shard the batch
    config.mesh.fsdp = -1  # devices that shard the batch and the large arrays of the state

    config.eval = ConfigDict()
    config.eval.every = 1_000  # steps between evaluations; the last step is always evaluated
    config.eval.mixture = ()  # held-out parts, as data.mixture; empty: those of the training
    config.eval.batch_size = 256  # global batch size, in rows
    config.eval.max_rows = 1_024  # rows whose loss is measured, at least 1
    config.eval.shapes = 0  # drawn shapes of seen and of held-out pairs, asked and drawn; 0: none
    config.eval.scale = 2.0  # of guidance, of what is drawn then; 1: none
    config.eval.temperature = 1.0  # of what is drawn then; 0: the likeliest codes

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 500  # steps between checkpoints; the last step is always saved
    config.checkpoint.keep_latest = 2  # number of newest checkpoints to keep, at least 1
    config.checkpoint.keep_best = 0  # number of best checkpoints to keep; 0: none
    config.checkpoint.keep_every = 0  # steps; checkpoints at their multiples are kept; 0: none
    config.checkpoint.best_metric = "eval/gain"  # metric of keep_best; the highest is best

    config.log = ConfigDict()
    config.log.every = 50  # steps between records, which hold means since the previous record
    config.log.tensorboard = True  # True writes TensorBoard files to the workdir
    config.log.wandb = ""  # project of Weights & Biases; empty: none
    config.log.parameters = False  # True logs a row for every array instead of every part
    config.log.profile_steps = ()  # first steps of traces: (10, 500); docs/guides/profile.md
    config.log.profile_count = 3  # steps per trace
    config.log.memory_profile = False  # True profiles memory after the first step of each start
    return config.lock()


def set_codes(model: ConfigDict, tokenizer: ConfigDict) -> None:
    """Sets the keys of `config.model` that follow from the configuration of the tokenizer."""
    model.num_codebooks = tokenizer.model.num_codebooks
    model.vocab_size = tokenizer.model.vocab_size
    model.latent_width = tokenizer.model.latent_width
    model.grid = tuple(side // 16 for side in tokenizer.data.image_size)
    model.projection_width = SIZES[tokenizer.model.size].width
    model.projection_heads = tokenizer.model.quant_heads
