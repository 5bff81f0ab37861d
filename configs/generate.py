"""All keys of a generator's run, with the values of the published recipe at size XXL.

Any key can be set on the command line: `--config.data.path=codes`. Resuming is as for a tokenizer:
`configs/default.py`. Paths may begin with `~`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns UniTok's recipe for classes of ImageNet, with a null class that is trained."""
    config = ConfigDict()
    config.product = "generator"  # what is trained; configs/default.py: tokenizer
    config.seed = 0  # seed of the weights, the data order, the views and what is dropped
    config.steps = 375_342  # updates of the run: 300 epochs of ImageNet; unit of the schedules

    # The keyword arguments of unitok_jax.generate.model.Generator, documented there.
    config.model = model = ConfigDict()
    model.size = "xxl"  # nano, tiny, small, b, l, xl, xxl, xxxl, 1b, 3b, 7b
    model.num_codebooks = 8  # codes per token, the tokenizer's
    model.vocab_size = 32_768  # total rows of all codebooks, the tokenizer's
    model.grid = (16, 16)  # rows and columns of tokens, the codes'
    model.prompt = "class"  # class or text
    model.prompt_rope = "zero"  # positions of the prompt: zero, as published; identity for text
    model.classes = 1000  # classes of the labels
    model.null_class = True  # True has a class more, for dropped labels: guidance needs it
    model.text_tokens = 77  # features of a text, for prompt=text; longer ones are cut
    model.text_features = 768  # width of a text's features, for prompt=text
    model.head_depth = 4  # blocks of the depth head; 0: codes of a token that are independent
    model.head_width = 0  # width of the depth head; 0: the trunk's
    model.dropout = 0.1  # rate on the input and behind attention and MLP, in [0, 1)
    model.drop_path = 0.0  # stochastic-depth rate of the last block, in [0, 1); replaces dropout
    model.remat = "blocks"  # recomputed in the backward pass: none, products, blocks
    model.dtype = "bfloat16"  # compute dtype; parameters, stream and logits are float32

    config.data = data = ConfigDict()
    data.path = ""  # folder of codes: unitok tokenize --views=ten
    data.tokenizer = ""  # tokenizer of the codes: for prompt=text, and to decode pictures
    data.text_features = ""  # folder of a KEY.npy per record, for prompt=text; empty: tokenizer's
    data.batch_size = 1024  # global batch size, in images
    data.num_threads = 16  # threads that read, per process or data worker
    data.num_workers = 0  # data-worker processes that read, per process; 0: none

    config.loss = ConfigDict()
    config.loss.drop_prompt = 0.1  # probability that a prompt becomes the null one, for guidance
    config.loss.chunk = 16  # tokens of each image whose logits exist at a time; divides the tokens

    config.optim = optim = ConfigDict()
    optim.kind = "adamw"  # adamw, or muon: matrices by Muon, all else by NAdamW
    optim.schedule = "cosine"  # learning-rate schedule: cosine, linear, exponential, constant
    optim.learning_rate = 3e-4  # peak rate
    optim.betas = (0.9, 0.95)  # AdamW's decay rates of the two moments, each in [0, 1)
    optim.eps = 1e-8  # AdamW's epsilon, above 0
    optim.weight_decay = 0.05  # AdamW's decoupled weight decay, at least 0
    optim.clip_norm = 1.0  # maximum global norm of the gradient, above 0
    optim.warmup_fraction = 0.03  # length of the linear warm-up from 0, as a fraction of steps
    optim.final_fraction = 0.0  # learning rate after the last step, as a fraction of the peak
    optim.ema_decay = 0.9999  # decay of the average that is sampled, in [0, 1); 0: none
    optim.max_skipped = 10  # consecutive skipped steps (not finite) that end the run

    # Devices along each axis. One of the two may be -1: all remaining devices.
    config.mesh = ConfigDict()
    config.mesh.data = -1  # devices that shard the batch
    config.mesh.fsdp = 1  # devices that shard the batch and the large arrays of the state

    config.eval = ConfigDict()
    config.eval.every = 5_000  # steps between evaluations; the last step is always evaluated
    config.eval.path = ""  # folder of held-out codes; empty: the training codes
    config.eval.batch_size = 256  # global batch size, in images
    config.eval.max_images = 5_000  # maximum number of images whose loss is measured, at least 1
    config.eval.preview = 16  # pictures drawn at each evaluation, if data.tokenizer is set; 0: none
    config.eval.temperature = 1.0  # of their sampling; 0: the likeliest codes
    config.eval.scale = 1.0  # guidance of their sampling by the null prompt; 1: none
    config.eval.drawn_images = 0  # images drawn for gFID at each evaluation, 2 or more; 0: none
    config.eval.reference = ""  # .npz of Inception's statistics to compare with, as ADM's

    config.frozen = ConfigDict()
    config.frozen.inception = ""  # weights of Inception, or seeded; for eval.drawn_images

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 1_000  # steps between checkpoints; the last step is always saved
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
    """Sets the keys of `config.model` that follow from the configuration of the tokenizer.

    They are K, V and the grid of the codes and, for prompts of texts, the sizes of its text tower.
    """
    model.num_codebooks = tokenizer.model.num_codebooks
    model.vocab_size = tokenizer.model.vocab_size
    model.grid = tuple(side // 16 for side in tokenizer.data.image_size)
    if model.prompt == "text":
        model.text_tokens = tokenizer.model.text.context_length
        model.text_features = tokenizer.model.text.width
