"""Answers of a multimodal model in PyTorch, in the way of UniTok's release: batch 1, no cache.

Each id of an answer runs all positions before it again, and one question is answered at a time.
The release does so with the Llama of `transformers`; here that block is written in plain PyTorch,
eager, with PyTorch's own attention, so that nothing else need be installed. Logits are computed of
the last position alone. Names of the weights are the release's.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.torch_unitok import AttentionProjection, Quantizer


class Norm(nn.Module):
    """RMSNorm in float32."""

    def __init__(self, width: int, epsilon: float):
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(width)), epsilon

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.epsilon)
        return y.type_as(x) * self.weight


class Attention(nn.Module):
    """Causal attention with rotary positions and grouped keys and values."""

    def __init__(self, model: Mapping):
        super().__init__()
        width, head, bias = model["width"], model["head_width"], model["qkv_bias"]
        self.head, self.repeats = head, model["heads"] // model["groups"]
        self.q_proj = nn.Linear(width, model["heads"] * head, bias=bias)
        self.k_proj = nn.Linear(width, model["groups"] * head, bias=bias)
        self.v_proj = nn.Linear(width, model["groups"] * head, bias=bias)
        self.o_proj = nn.Linear(model["heads"] * head, width, bias=False)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        projected = (layer(x) for layer in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = (y.unflatten(-1, (-1, self.head)).transpose(1, 2) for y in projected)
        q, k = turn(q, rope), turn(k, rope)
        k, v = (y.repeat_interleave(self.repeats, dim=1) for y in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).flatten(2))


def turn(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Turns the channels c and c + d / 2 of x [B, H, T, d] by angles [T, d / 2], in float32."""
    a, b = x.float().chunk(2, dim=-1)
    cos, sin = rope
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).type_as(x)


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Block of Llama, or of Qwen2 with its biases."""

    def __init__(self, model: Mapping):
        super().__init__()
        width, epsilon = model["width"], model["epsilon"]
        self.input_layernorm = Norm(width, epsilon)
        self.self_attn = Attention(model)
        self.post_attention_layernorm = Norm(width, epsilon)
        self.mlp = Mlp(width, model["hidden"])

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rope)
        return x + self.mlp(self.post_attention_layernorm(x))


class Embedder(nn.Module):
    """Codes to vectors: unit rows, the causal projection in float32, and an MLP."""

    def __init__(self, model: Mapping):
        super().__init__()
        books, latent, width = model["num_codebooks"], model["latent_width"], model["width"]
        inner = model["projection_width"]
        self.quantizer = Quantizer(books, model["vocab_size"] // books, latent, 0.0)
        self.attn_projection = AttentionProjection(
            latent, inner, model["projection_heads"], causal=True
        )
        self.mm_projector = nn.Sequential(
            nn.LayerNorm(inner, eps=1e-6), nn.Linear(inner, width), nn.GELU(),
            nn.Linear(width, width),
        )  # fmt: skip

    def forward(self, codes: Tensor) -> Tensor:
        """Embeds codes [M, K, L] to [M, L, W]."""
        x = self.attn_projection(self.quantizer.lookup(codes))
        return self.mm_projector(x.to(self.mm_projector[1].weight.dtype))


class Trunk(nn.Module):
    """Language model without its logits, and what embeds images."""

    def __init__(self, model: Mapping):
        super().__init__()
        self.embed_tokens = nn.Embedding(model["vocabulary"], model["width"])
        self.layers = nn.ModuleList(Block(model) for _ in range(model["depth"]))
        self.norm = Norm(model["width"], model["epsilon"])
        self.multi_embedder = Embedder(model)


class Answerer(nn.Module):
    """Model that answers; it draws nothing, and so has no depth head.

    Args:
      model: the keys of `config.model`.

    Raises:
      ValueError: a model with what this one lacks.
    """

    def __init__(self, model: Mapping):
        super().__init__()
        if model["qk_norm"] or model["projection"] != "causal":
            raise ValueError("only models without qk_norm, and with the causal projection")
        if model["rope_scaling"]["factor"] != 1:
            raise ValueError("only models without a scaling of the rotary frequencies")
        self.model = Trunk(model)
        if not model["tied"]:
            self.lm_head = nn.Linear(model["width"], model["vocabulary"], bias=False)
        self.tied, self.base, self.head = model["tied"], model["rope_base"], model["head_width"]

    def in_dtype(self, dtype: torch.dtype) -> "Answerer":
        """Casts all weights but those of the projection of codes, which stay float32."""
        self.to(dtype)
        self.model.multi_embedder.quantizer.float()
        self.model.multi_embedder.attn_projection.float()
        return self

    @torch.inference_mode()
    def answer(self, ids: Tensor, image_at: Tensor, codes: Tensor, limit: int) -> Tensor:
        """Answers one question with the likeliest ids.

        Args:
          ids: int64 [T].
          image_at: int64 [T], place among the visual tokens of all images, -1 for text.
          codes: int64 [M, K, L].
          limit: number of ids of the answer.

        Returns:
          int64 [limit].
        """
        trunk = self.model
        visual = trunk.multi_embedder(codes).flatten(0, 1)
        text = trunk.embed_tokens(ids)
        x = torch.where(image_at[:, None] < 0, text, visual[image_at.clamp(min=0)])[None]
        table = trunk.embed_tokens.weight if self.tied else self.lm_head.weight
        said = []
        for _ in range(limit):
            said.append((self.hidden(x)[0, -1] @ table.T).argmax())
            x = torch.cat([x, trunk.embed_tokens(said[-1])[None, None]], 1)
        return torch.stack(said)

    def hidden(self, x: Tensor) -> Tensor:
        """Runs all positions [1, T, W]."""
        half = torch.arange(0, self.head, 2, device=x.device) / self.head
        angles = torch.arange(x.shape[1], device=x.device)[:, None] * self.base**-half
        rope = angles.cos(), angles.sin()
        for layer in self.model.layers:
            x = layer(x, rope)
        return self.model.norm(x)
