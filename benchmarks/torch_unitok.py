"""UniTok tokenizer in plain PyTorch, for inference: a timing baseline and a loading oracle.

Every name and shape of ``UniTok(...).state_dict()`` is the public release's, so
``load_state_dict(strict=True)`` accepts a release checkpoint, or a file exported by this project,
only if the file is complete.  Paper: arXiv 2502.20321.

Shapes: B batch, H W pixels, N tokens, D trunk width, K codebooks, V entries of one codebook,
C width of one codebook, L latent width K C.  Images are NCHW float32 in [-1, 1].

Feature maps stay in ``channels_last`` memory from the first convolution to the last: a norm over
channels then reads contiguous memory, and oneDNN's depthwise kernels are several times faster.
"""

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Size:
    """Size of a model name.  The stem is as wide as the first stage."""

    stages: tuple[int, int]
    width: int
    blocks: int
    heads: int
    depths: tuple[int, int] = (2, 4)


SIZES = {
    "vitamin_tiny": Size((32, 64), 128, blocks=2, heads=4),
    "vitamin_small": Size((64, 128), 384, blocks=14, heads=6),
    "vitamin_base": Size((128, 256), 768, blocks=14, heads=12),
    "vitamin_large": Size((160, 320), 1024, blocks=31, heads=16),
}
STRIDE = 16
EXPANSION = 4  # inner width of an MBConv block over its output width


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, H, W], eps 1e-6; a view for channels_last input."""

    def __init__(self, width: int):
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def conv3x3(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Builds a 3x3 convolution with padding (1, 1), whatever the stride."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, groups=groups)


class Upsample(nn.Module):
    """Up-sampling, nearest x2, then a 3x3 convolution: [B, I, H, W] -> [B, O, 2H, 2W]."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = conv3x3(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class PoolShortcut(nn.Module):
    """Shortcut: 3x3 average of stride 2 without the padding, then 1x1 if the width changes."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.expand = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.expand(F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False))


class ConvBlock(nn.Module):
    """MBConv block with a LayerNorm: norm, 1x1, GELU, [nearest x2 + 3x3], depthwise, GELU, 1x1.

    ``scale`` is "down" (the depthwise convolution has stride 2), "up" (x2 after the first GELU) or
    "same".
    """

    def __init__(self, inputs: int, outputs: int, scale: str):
        super().__init__()
        inner = EXPANSION * outputs
        if scale == "down":
            self.shortcut = PoolShortcut(inputs, outputs)
        elif scale == "up":
            self.shortcut = Upsample(inputs, outputs)
        elif inputs == outputs:
            self.shortcut = nn.Identity()
        else:
            self.shortcut = nn.Conv2d(inputs, outputs, 1)
        self.pre_norm = ChannelNorm(inputs)
        self.conv1_1x1 = nn.Conv2d(inputs, inner, 1)
        self.up = Upsample(inner, inner) if scale == "up" else nn.Identity()
        self.conv2_kxk = conv3x3(inner, inner, stride=2 if scale == "down" else 1, groups=inner)
        self.conv3_1x1 = nn.Conv2d(inner, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(F.gelu(self.conv1_1x1(self.pre_norm(x))))
        return self.shortcut(x) + self.conv3_1x1(F.gelu(self.conv2_kxk(y)))


def stage(inputs: int, outputs: int, depth: int, scale: str) -> nn.Sequential:
    """Builds ``depth`` blocks, of which the first changes width and resolution."""
    first = ConvBlock(inputs, outputs, scale)
    return nn.Sequential(first, *(ConvBlock(outputs, outputs, "same") for _ in range(depth - 1)))


class Stem(nn.Module):
    """Stem: 3x3 of stride 2, norm, GELU, 3x3: [B, 3, H, W] -> [B, width, H/2, W/2]."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = conv3x3(3, width, stride=2)
        self.norm1 = ChannelNorm(width)
        self.conv2 = conv3x3(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.gelu(self.norm1(self.conv1(x))))


class Head(nn.Module):
    """Head, the stem's inverse: x2, norm, GELU, 3x3: [B, width, H/2, W/2] -> [B, 3, H, W]."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = Upsample(width, width)
        self.norm1 = ChannelNorm(width)
        self.conv2 = conv3x3(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.gelu(self.norm1(self.conv1(x))))


class Pool(nn.Module):
    """Pooling: norm, then 3x3 of stride 2 to the trunk's width."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.proj = conv3x3(inputs, outputs, stride=2)
        self.norm = ChannelNorm(inputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.norm(x))


class Backbone(nn.Module):
    """Convolutional part of the encoder: [B, 3, H, W] -> [B, D, H/16, W/16]."""

    def __init__(self, size: Size):
        super().__init__()
        narrow, wide = size.stages
        self.stem = Stem(narrow)
        self.stages = nn.Sequential(
            stage(narrow, narrow, size.depths[0], "down"),
            stage(narrow, wide, size.depths[1], "down"),
        )
        self.pool = Pool(wide, size.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.stages(self.stem(x)))


class GeGlu(nn.Module):
    """GeGLU MLP: w2(tanh-GELU(w0 y) (w1 y)) for y = LayerNorm(x); the last axis is kept."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.w0 = nn.Linear(width, 2 * width)
        self.w1 = nn.Linear(width, 2 * width)
        self.w2 = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.w2(F.gelu(self.w0(x), approximate="tanh") * self.w1(x))


def attend(qkv: Tensor, heads: int, causal: bool = False) -> Tensor:
    """Computes attention over [B, N, 3D], q, k, v in this order: -> [B, heads, N, D/heads]."""
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def concatenate_heads(x: Tensor) -> Tensor:
    """Concatenates heads: [B, heads, N, D/heads] -> [B, N, D]."""
    return x.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Self-attention with a biased qkv: [B, N, D] -> [B, N, D]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(concatenate_heads(attend(self.qkv(x), self.heads)))


class Block(nn.Module):
    """Pre-norm transformer block of the trunks: [B, N, D] -> [B, N, D]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = GeGlu(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def trunk(size: Size) -> nn.Sequential:
    """Builds the transformer blocks of the encoder or the decoder."""
    return nn.Sequential(*(Block(size.width, size.heads) for _ in range(size.blocks)))


class Encoder(nn.Module):
    """ViTamin: [B, 3, H, W] -> tokens [B, N, D], row-major."""

    def __init__(self, size: Size):
        super().__init__()
        # Frozen at zero in the release: a checkpoint contains this entry, so it is added.
        self.register_buffer("pos_embed", torch.zeros(1, 1, size.width))
        self.patch_embed = nn.ModuleDict({"backbone": Backbone(size)})
        self.blocks = trunk(size)
        self.norm = nn.LayerNorm(size.width, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed["backbone"](images)
        x = x.flatten(2).transpose(1, 2) + self.pos_embed
        return self.norm(self.blocks(x))


class Decoder(nn.Module):
    """Mirrored encoder: tokens [B, N, D] -> images [B, 3, H, W], not bounded."""

    def __init__(self, size: Size):
        super().__init__()
        narrow, wide = size.stages
        self.blocks = trunk(size)
        self.norm = nn.LayerNorm(size.width, eps=1e-6)
        self.up_conv1 = Upsample(size.width, wide)
        self.up_conv2 = stage(wide, wide, size.depths[1], "up")
        self.up_conv3 = stage(wide, narrow, size.depths[0], "up")
        self.up_conv4 = Head(narrow)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.blocks(tokens))
        side = math.isqrt(x.shape[1])
        x = x.transpose(1, 2).unflatten(2, (side, side))  # [B, D, H/16, W/16], channels_last
        return self.up_conv4(self.up_conv3(self.up_conv2(self.up_conv1(x))))


class ProjectionAttention(nn.Module):
    """Attention that changes the width: [B, N, inputs] -> [B, N, outputs].

    If the width shrinks, heads split the input width and are averaged; if it grows, heads split the
    output width and are concatenated.  Only q and v have a trained bias.
    """

    def __init__(self, inputs: int, outputs: int, heads: int, causal: bool = False):
        super().__init__()
        inner = max(inputs, outputs)
        self.outputs, self.heads, self.down = outputs, heads, inputs > outputs
        self.causal = causal
        self.qkv = nn.Linear(inputs, 3 * inner, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(inner))
        self.v_bias = nn.Parameter(torch.zeros(inner))
        self.register_buffer("zero_k_bias", torch.zeros(inner))
        self.proj = nn.Linear(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat((self.q_bias, self.zero_k_bias, self.v_bias))
        qkv = F.linear(x, self.qkv.weight, bias)
        x = attend(qkv, self.heads, self.causal)  # [B, heads, N, inner/heads]
        x = x.mean(1) if self.down else concatenate_heads(x)
        if x.shape[-1] != self.outputs:
            x = F.adaptive_avg_pool1d(x, self.outputs)
        return self.proj(x)


class AttentionProjection(nn.Module):
    """Projection between trunk and latent width: [B, N, inputs] -> [B, N, outputs]."""

    def __init__(self, inputs: int, outputs: int, heads: int, causal: bool = False):
        super().__init__()
        self.norm1 = nn.LayerNorm(inputs)
        self.attn = ProjectionAttention(inputs, outputs, heads, causal)
        self.norm3 = nn.LayerNorm(inputs)
        self.proj = nn.Linear(inputs, outputs)
        self.norm2 = nn.LayerNorm(outputs)
        self.mlp = GeGlu(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(self.norm3(x)) + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Codebook(nn.Module):
    """Codebook: V entries of width C, and the release's counts of their use."""

    def __init__(self, entries: int, width: int):
        super().__init__()
        self.codebook = nn.Embedding(entries, width)
        self.register_buffer("vocab_usage", torch.zeros(entries))


class Quantizer(nn.Module):
    """Multi-codebook quantization by cosine.

    Args:
        books: K.
        entries: V.
        latent_width: L = K C.
        beta: weight of the commitment term.
    """

    def __init__(self, books: int, entries: int, latent_width: int, beta: float):
        super().__init__()
        if latent_width % books:
            raise ValueError(f"num_codebooks={books} does not divide vocab_width={latent_width}")
        self.beta = beta
        self.codebooks = nn.ModuleList(
            Codebook(entries, latent_width // books) for _ in range(books)
        )

    def rows(self) -> Tensor:
        """Returns every codebook's unit rows, [K, V, C]."""
        return F.normalize(torch.stack([book.codebook.weight for book in self.codebooks]), dim=-1)

    def chunks(self, latents: Tensor) -> Tensor:
        """Splits latents [B, N, L] into unit chunks [B, K, N, C]."""
        chunks = latents.unflatten(-1, (len(self.codebooks), -1)).transpose(1, 2)
        return F.normalize(chunks, dim=-1)

    def indices(self, latents: Tensor) -> Tensor:
        """Computes codes of latents [B, N, L]: the row of highest cosine, int64 [B, K, N]."""
        return (self.chunks(latents) @ self.rows().transpose(1, 2)).argmax(-1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Looks up codes [B, K, N]: concatenated unit rows, [B, N, L]."""
        book = torch.arange(len(self.codebooks), device=codes.device)[:, None]
        return self.rows()[book, codes].transpose(1, 2).flatten(2)

    def loss(self, latents: Tensor, quantized: Tensor) -> Tensor:
        """Computes commitment plus codebook loss, a scalar: one mean, as books are equally wide."""
        chunks = self.chunks(latents).transpose(1, 2).flatten(2)
        return (1 + self.beta) * F.mse_loss(quantized, chunks)


class TextAttention(nn.Module):
    """Causal self-attention with CLIP's parameter names: [B, T, D] -> [B, T, D]."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.normal_(self.in_proj_weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        return self.out_proj(concatenate_heads(attend(qkv, self.heads, causal=True)))


class TextMlp(nn.Module):
    """MLP of the text tower: linear, exact GELU, linear."""

    def __init__(self, width: int):
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))


class TextBlock(nn.Module):
    """Pre-norm block of the text tower."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = TextAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = TextMlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class TextEncoder(nn.Module):
    """CLIP's text tower: ids [B, T] -> features [B, embed_dim], not normalised."""

    def __init__(
        self, width: int, heads: int, layers: int, vocab_size: int, context: int, embed_dim: int
    ):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(context, width))
        blocks = nn.Sequential(*(TextBlock(width, heads) for _ in range(layers)))
        self.transformer = nn.ModuleDict({"resblocks": blocks})
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, embed_dim))

    def forward(self, text: Tensor) -> Tensor:
        x = self.token_embedding(text) + self.positional_embedding[: text.shape[1]]
        x = self.ln_final(self.transformer["resblocks"](x))
        end = text.argmax(-1)  # the end-of-text token has the largest id
        return x[torch.arange(len(text), device=text.device), end] @ self.text_projection


class UniTok(nn.Module):
    """UniTok tokenizer, with the release's option names.

    Args:
        model: a key of ``SIZES``.
        img_size: pixels along a side, a multiple of 16.
        vocab_size: entries of all codebooks together.
        vocab_width: latent width L.
        num_codebooks: K.
        quant_proj: "attn" or "linear".
        embed_dim: width of the joint image and text space.
        num_query: register tokens; only 0 is implemented.
        drop_path: ignored: this is for inference.
        vq_beta: weight of the commitment term in ``vq_loss``.

    Raises:
        KeyError: for an unknown ``model``.
        ValueError: for any other option that is not implemented or does not divide.
    """

    def __init__(
        self,
        model: str = "vitamin_base",
        img_size: int = 256,
        vocab_size: int = 32768,
        vocab_width: int = 64,
        num_codebooks: int = 8,
        quant_proj: str = "attn",
        embed_dim: int = 768,
        num_query: int = 0,
        drop_path: float = 0.0,
        text_width: int = 768,
        text_heads: int = 12,
        text_layers: int = 12,
        text_vocab_size: int = 49408,
        text_context_length: int = 77,
        vq_beta: float = 0.25,
    ):
        super().__init__()
        del drop_path
        if num_query:
            raise ValueError(f"num_query={num_query} is not implemented, only 0")
        if img_size % STRIDE:
            raise ValueError(f"img_size={img_size} is not a multiple of {STRIDE}")
        if vocab_size % num_codebooks:
            raise ValueError(f"num_codebooks={num_codebooks} does not divide {vocab_size=}")
        size = SIZES[model]
        self.encoder = Encoder(size)
        if quant_proj == "attn":
            heads = size.width // vocab_width  # the trunk's own number in the published models
            self.quant_proj = AttentionProjection(size.width, vocab_width, heads)
            self.post_quant_proj = AttentionProjection(vocab_width, size.width, heads)
        elif quant_proj == "linear":
            self.quant_proj = nn.Linear(size.width, vocab_width)
            self.post_quant_proj = nn.Linear(vocab_width, size.width)
        else:
            raise ValueError(f"quant_proj={quant_proj!r} is neither 'attn' nor 'linear'")
        self.quantizer = Quantizer(num_codebooks, vocab_size // num_codebooks, vocab_width, vq_beta)
        self.decoder = Decoder(size)
        self.text_encoder = TextEncoder(
            text_width, text_heads, text_layers, text_vocab_size, text_context_length, embed_dim
        )
        self.fc_norm = nn.LayerNorm(size.width, eps=1e-6)
        self.projection = nn.Linear(size.width, embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        self.to(memory_format=torch.channels_last)
        self.eval()

    def latents(self, images: Tensor) -> Tensor:
        """Encodes images [B, 3, H, W] to latents before quantization, [B, N, L]."""
        return self.quant_proj(self.encoder(images.to(memory_format=torch.channels_last)))

    @torch.inference_mode()
    def img_to_idx(self, images: Tensor) -> Tensor:
        """Encodes images [B, 3, H, W] to codes, int64 [B, K, N]."""
        return self.quantizer.indices(self.latents(images))

    @torch.inference_mode()
    def idx_to_img(self, codes: Tensor) -> Tensor:
        """Decodes codes [B, K, N] to images [B, 3, H, W], clipped to [-1, 1]."""
        tokens = self.post_quant_proj(self.quantizer.lookup(codes))
        return self.decoder(tokens).clamp(-1, 1)

    def image_features(self, tokens: Tensor) -> Tensor:
        """Computes unit features [B, embed_dim] from post-quantization tokens [B, N, D]."""
        return F.normalize(self.projection(self.fc_norm(tokens.mean(1))), dim=-1)

    @torch.inference_mode()
    def encode_image(self, images: Tensor) -> Tensor:
        """Encodes images [B, 3, H, W] to unit features [B, embed_dim]."""
        quantized = self.quantizer.lookup(self.img_to_idx(images))
        return self.image_features(self.post_quant_proj(quantized))

    @torch.inference_mode()
    def encode_text(self, text: Tensor) -> Tensor:
        """Encodes token ids [B, T] to unit features [B, embed_dim]."""
        return F.normalize(self.text_encoder(text), dim=-1)

    @torch.inference_mode()
    def forward(self, images: Tensor, text: Tensor) -> dict[str, Tensor]:
        """Computes every intermediate result, by name.

        Args:
            images: [B, 3, H, W].
            text: token ids, int64 [B, T].

        Returns:
            encoder_tokens [B, N, D], quant_proj [B, N, L], codes [B, K, N], quantized [B, N, L],
            post_quant_proj [B, N, D], reconstruction [B, 3, H, W] not clipped, vq_loss [],
            clip_image_features and clip_text_features [B, embed_dim], logit_scale [] (the factor).
        """
        encoder_tokens = self.encoder(images.to(memory_format=torch.channels_last))
        latents = self.quant_proj(encoder_tokens)
        codes = self.quantizer.indices(latents)
        quantized = self.quantizer.lookup(codes)
        tokens = self.post_quant_proj(quantized)
        return {
            "encoder_tokens": encoder_tokens,
            "quant_proj": latents,
            "codes": codes,
            "quantized": quantized,
            "post_quant_proj": tokens,
            "reconstruction": self.decoder(tokens),
            "vq_loss": self.quantizer.loss(latents, quantized),
            "clip_image_features": self.image_features(tokens),
            "clip_text_features": self.encode_text(text),
            "logit_scale": self.logit_scale.exp(),
        }
