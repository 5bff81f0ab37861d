"""All keys of a multimodal model's run, with the values of the published model of 7 B parameters.

Any key can be set on the command line: `--config.data.path=codes`. Resuming is as for a tokenizer:
`configs/default.py`. Paths may begin with `~`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the configuration of a model on Llama-2-7B and the published tokenizer."""
    config = ConfigDict()
    config.product = "multimodal"  # what is trained; configs/default.py: tokenizer
    config.seed = 0  # seed of the weights, the data order and the draws

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
    model.projection = "causal"  # of the codes' vectors: causal, the published one, or linear
    model.projection_width = 1024  # width of the projected tokens, the tokenizer's
    model.projection_heads = 16  # attention heads of a causal projection, the tokenizer's
    model.head_depth = 3  # blocks of the depth head; 0: codes of a token that are independent
    model.remat = True  # True recomputes every block in the backward pass
    model.dtype = "bfloat16"  # compute dtype; parameters, stream and logits are float32

    config.loss = ConfigDict()
    config.loss.z_weight = 5e-5  # of the mean over the codes of the squared largest logit
    config.loss.chunk = 128  # positions of each row whose logits exist at a time
    return config.lock()
