"""Sampling of a generator in PyTorch as the reference does it: eager, with static caches.

The algorithm of the reference: for each token a step of the trunk with a cache of all positions,
then K steps of the depth head with a cache of K positions, made anew for each token; with guidance
on twice the batch. Weights are random: they do not change the time.
"""

import math

import torch
import torch.nn.functional as F


class Block(torch.nn.Module):
    """RMSNorm, attention with a cache, RMSNorm, SwiGLU."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (torch.nn.Parameter(torch.ones(width)) for _ in range(2))
        self.qkv = torch.nn.Linear(width, 3 * width, bias=False)
        self.out = torch.nn.Linear(width, width, bias=False)
        self.gate, self.up = (torch.nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down = torch.nn.Linear(hidden, width, bias=False)

    def forward(self, x, cache, place, mask, rope):
        """Runs one position (B, 1, D); `cache` (2, B, H, S, d) is updated in place."""
        b, _, width = x.shape
        q, k, v = self.qkv(norm(x, self.norm1)).view(b, 1, 3, self.heads, -1).unbind(2)
        if rope is not None:
            q, k = turn(q, rope), turn(k, rope)
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        cache[0][:, :, place] = k[:, :, 0]
        cache[1][:, :, place] = v[:, :, 0]
        y = F.scaled_dot_product_attention(q, cache[0], cache[1], attn_mask=mask)
        x = x + self.out(y.transpose(1, 2).reshape(b, 1, width))
        y = norm(x, self.norm2)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def norm(x, scale):
    """Computes RMSNorm in float32."""
    y = x.float()
    return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-5)).type_as(x) * scale


def turn(x, rope):
    """Rotates pairs of neighbouring channels, in float32."""
    pairs = x.float().reshape(*x.shape[:-1], -1, 2)
    cos, sin = rope[..., 0], rope[..., 1]
    a, b = pairs[..., 0], pairs[..., 1]
    return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(3).type_as(x)


class Generator(torch.nn.Module):
    """Generator with a class prompt."""

    def __init__(self, width, heads, depth, head_depth, books, entries, classes, tokens):
        super().__init__()
        hidden = math.ceil(int(8 * width / 3) / 256) * 256
        self.heads, self.books, self.tokens = heads, books, tokens
        self.prompt = torch.nn.Embedding(classes + 1, width)
        self.tables = torch.nn.ModuleList(torch.nn.Embedding(entries, width) for _ in range(books))
        self.trunk = torch.nn.ModuleList(Block(width, heads, hidden) for _ in range(depth))
        self.norm, self.head_norm = (torch.nn.Parameter(torch.ones(width)) for _ in range(2))
        self.head_tables = torch.nn.ModuleList(
            torch.nn.Embedding(entries, width) for _ in range(books - 1)
        )
        self.head = torch.nn.ModuleList(Block(width, heads, hidden) for _ in range(head_depth))
        self.linear = torch.nn.Linear(width, entries)
        self.register_buffer("rope", torch.rand(tokens, 1, width // heads // 2, 2))

    @torch.inference_mode()
    def sample(self, labels, scale: float = 1.0, tokens: int | None = None):
        """Samples the first `tokens` of codes (B, K, N)."""
        guided, count = scale != 1, len(labels)
        if guided:
            labels = torch.cat([labels, torch.full_like(labels, self.prompt.num_embeddings - 1)])
        x = self.prompt(labels)[:, None]
        b, _, width = x.shape
        made = dict(device=x.device, dtype=x.dtype)
        shape = b, self.heads, self.tokens, width // self.heads
        caches = [torch.zeros(2, *shape, **made) for _ in self.trunk]
        mask = torch.tril(torch.ones(self.tokens, self.tokens, dtype=torch.bool, device=x.device))
        out = []
        for n in range(tokens or self.tokens):
            for block, cache in zip(self.trunk, caches, strict=True):
                x = block(x, cache, n, mask[n][None, None, None], self.rope[n])
            codes = self.draw(norm(x, self.norm), scale, guided, count)
            both = torch.cat([codes, codes]) if guided else codes
            rows = (table(both[:, k]) for k, table in enumerate(self.tables))
            x = sum(rows)[:, None]
            out.append(codes)
        return torch.stack(out, -1)

    def choose(self, logits):
        """Draws a code for each row of logits."""
        return torch.multinomial(torch.softmax(logits, -1), 1)[:, 0]

    def draw(self, y, scale, guided, count):
        """Draws the K codes of a token."""
        made, width = dict(device=y.device, dtype=y.dtype), y.shape[-1]
        shape = len(y), self.heads, self.books, width // self.heads
        caches = [torch.zeros(2, *shape, **made) for _ in self.head]
        seen = torch.tril(torch.ones(self.books, self.books, dtype=torch.bool, device=y.device))
        codes = []
        for k in range(self.books):
            for block, cache in zip(self.head, caches, strict=True):
                y = block(y, cache, k, seen[k][None, None, None], None)
            logits = self.linear(norm(y, self.head_norm))[:, 0]
            if guided:
                logits = logits[count:] + scale * (logits[:count] - logits[count:])
            code = self.choose(logits)
            codes.append(code)
            if k + 1 < self.books:
                y = self.head_tables[k](torch.cat([code, code]) if guided else code)[:, None]
        return torch.stack(codes, -1)
