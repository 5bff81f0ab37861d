"""Small teachers with seeded weights, their files in every public layout, and PyTorch's outputs."""

import numpy as np
import safetensors.numpy

from unitok_jax.models.pretrained import dinov2, teachers
from unitok_jax.models.pretrained.vit import Shape

WIDTH, DEPTH, HEADS, HIDDEN, TABLE = 32, 3, 2, 48, 4
TEXT = teachers.Text(embed_dim=24, width=16, heads=2, depth=2, vocab_size=64, context_length=8)
HALF = (0.5, 0.5, 0.5)
_DINOV3 = Shape(
    *(WIDTH, DEPTH, HEADS, 16, 0, HIDDEN, dinov2.MEAN, dinov2.STD),
    layer_scale=True,
    epsilon=1e-5,
    registers=2,
)
SMALL = {
    "dinov2": teachers.Kind(
        dinov2.shape(WIDTH, DEPTH, HEADS)._replace(hidden=HIDDEN, table=TABLE), None, "hub/dinov2"
    ),
    "dinov2_reg": teachers.Kind(
        dinov2.shape(WIDTH, DEPTH, HEADS, 2)._replace(hidden=HIDDEN, table=TABLE),
        *(None, "hub/dinov2_reg"),
    ),
    "dinov3": teachers.Kind(_DINOV3, None, "hub/dinov3"),
    "dinov3_gated": teachers.Kind(
        _DINOV3._replace(gelu="swiglu", registers=3), None, "hub/dinov3_gated"
    ),
    "siglip2": teachers.Kind(
        Shape(
            *(WIDTH, DEPTH, HEADS, 16, TABLE, HIDDEN, HALF, HALF), class_token=False, gelu="tanh"
        ),
        *(None, "hub/siglip2"),
    ),
    "clip": teachers.Kind(
        Shape(
            *(WIDTH, DEPTH, HEADS, 16, TABLE, HIDDEN, dinov2.MEAN, dinov2.STD),
            norm_before=True,
            epsilon=1e-5,
        ),
        *(TEXT, "hub/clip"),
    ),
}
SMALL["clip_quick"] = teachers.Kind(
    SMALL["clip"].image._replace(gelu="quick"), TEXT._replace(gelu="quick"), "hub/clip_quick"
)


def install(monkeypatch, **sizes) -> None:
    """Adds the small kinds to the known ones, as `small_dinov2` and so on."""
    for name, kind in SMALL.items():
        row = kind._replace(image=kind.image._replace(**sizes))
        monkeypatch.setitem(teachers.KINDS, f"small_{name}", row)


def install_clip(monkeypatch, **sizes) -> None:
    """As `install`, but `small_clip` reads the token ids of captions."""
    text = TEXT._replace(vocab_size=49_408, context_length=77)
    monkeypatch.setitem(SMALL, "clip", SMALL["clip"]._replace(text=text))
    install(monkeypatch, **sizes)


def clip_of_captions() -> dict[str, np.ndarray]:
    """The file of a `small_clip` with a row for each token id and place of captions."""
    arrays = clip_of_open_clip()
    words, places = arrays["token_embedding.weight"], arrays["positional_embedding"]
    arrays["token_embedding.weight"] = np.resize(words, (49_408, TEXT.width))
    arrays["positional_embedding"] = np.resize(places, (77, TEXT.width))
    return arrays


def state(name: str) -> dict[str, np.ndarray]:
    """The seeded weights of a small teacher, in timm's names, CLIP's text tower in open_clip's."""
    kind, rng = SMALL[name], np.random.default_rng(7)
    shape, out = kind.image, {}

    def draw(key, *size, around=0.0):
        out[key] = (around + 0.2 * rng.standard_normal(size)).astype(np.float32)

    def norm(key, width):
        draw(f"{key}.weight", width, around=1.0)
        draw(f"{key}.bias", width)

    def linear(key, inputs, outputs):
        draw(f"{key}.weight", outputs, inputs)
        draw(f"{key}.bias", outputs)

    if shape.class_token:
        draw("cls_token", 1, 1, WIDTH)
    if shape.registers:
        draw("register_tokens", 1, shape.registers, WIDTH)
    if shape.table:
        draw("pos_embed", 1, TABLE**2 + shape.class_token, WIDTH)
    draw("patch_embed.proj.weight", WIDTH, 3, shape.patch, shape.patch)
    if not shape.norm_before:
        draw("patch_embed.proj.bias", WIDTH)
    else:
        norm("norm_pre", WIDTH)
    for i in range(DEPTH):
        block = f"blocks.{i}"
        norm(f"{block}.norm1", WIDTH)
        norm(f"{block}.norm2", WIDTH)
        linear(f"{block}.attn.qkv", WIDTH, 3 * WIDTH)
        if not shape.table:
            out[f"{block}.attn.qkv.bias"][WIDTH : 2 * WIDTH] = 0  # DINOv3's keys have none
        if shape.gelu == "swiglu":
            linear(f"{block}.mlp.gate", WIDTH, HIDDEN)
        linear(f"{block}.attn.proj", WIDTH, WIDTH)
        linear(f"{block}.mlp.fc1", WIDTH, HIDDEN)
        linear(f"{block}.mlp.fc2", HIDDEN, WIDTH)
        if shape.layer_scale:
            draw(f"{block}.ls1.gamma", WIDTH, around=0.5)
            draw(f"{block}.ls2.gamma", WIDTH, around=0.5)
    norm("norm", WIDTH)
    if kind.text is None:
        return out
    draw("projection", WIDTH, TEXT.embed_dim)
    draw("logit_scale", around=2.0)
    out["logit_scale"] = np.array(out["logit_scale"])
    draw("token_embedding.weight", TEXT.vocab_size, TEXT.width)
    draw("positional_embedding", TEXT.context_length, TEXT.width)
    for i in range(TEXT.depth):
        block = f"transformer.resblocks.{i}"
        norm(f"{block}.ln_1", TEXT.width)
        norm(f"{block}.ln_2", TEXT.width)
        draw(f"{block}.attn.in_proj_weight", 3 * TEXT.width, TEXT.width)
        draw(f"{block}.attn.in_proj_bias", 3 * TEXT.width)
        linear(f"{block}.attn.out_proj", TEXT.width, TEXT.width)
        linear(f"{block}.mlp.c_fc", TEXT.width, 4 * TEXT.width)
        linear(f"{block}.mlp.c_proj", 4 * TEXT.width, TEXT.width)
    norm("ln_final", TEXT.width)
    draw("text_projection", TEXT.width, TEXT.embed_dim)
    return out


def _both(out, target, state, source):
    for leaf in ("weight", "bias"):
        if f"{source}.{leaf}" in state:
            out[f"{target}.{leaf}"] = state[f"{source}.{leaf}"]


def _parts(out, targets, weight, bias):
    for target, w, b in zip(targets, np.split(weight, 3), np.split(bias, 3), strict=True):
        out[f"{target}.weight"], out[f"{target}.bias"] = w, b


def dinov2_of_project():
    return state("dinov2") | {"mask_token": np.zeros((1, WIDTH), np.float32)}


def dinov2_reg_of_project():
    return state("dinov2_reg") | {"mask_token": np.zeros((1, WIDTH), np.float32)}


def dinov2_of_transformers(name="dinov2"):
    s = state(name)
    out = {
        "embeddings.cls_token": s["cls_token"],
        "embeddings.mask_token": np.zeros((1, WIDTH), np.float32),
        "embeddings.position_embeddings": s["pos_embed"],
    }
    _both(out, "embeddings.patch_embeddings.projection", s, "patch_embed.proj")
    for i in range(DEPTH):
        layer, block = f"encoder.layer.{i}", f"blocks.{i}"
        names = [f"{layer}.attention.attention.{part}" for part in ("query", "key", "value")]
        _parts(out, names, s[f"{block}.attn.qkv.weight"], s[f"{block}.attn.qkv.bias"])
        _both(out, f"{layer}.attention.output.dense", s, f"{block}.attn.proj")
        for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
            _both(out, f"{layer}.{part}", s, f"{block}.{part}")
        for part in "12":
            out[f"{layer}.layer_scale{part}.lambda1"] = s[f"{block}.ls{part}.gamma"]
    _both(out, "layernorm", s, "norm")
    if "register_tokens" in s:
        out["embeddings.register_tokens"] = s["register_tokens"]
    return out


def dinov2_reg_of_transformers():
    return dinov2_of_transformers("dinov2_reg")


def dinov3_of_transformers(name="dinov3"):
    s = state(name)
    out = {
        "embeddings.cls_token": s["cls_token"],
        "embeddings.mask_token": np.zeros((1, 1, WIDTH), np.float32),
        "embeddings.register_tokens": s["register_tokens"],
    }
    _both(out, "embeddings.patch_embeddings", s, "patch_embed.proj")
    for i in range(DEPTH):
        layer, block = f"layer.{i}", f"blocks.{i}"
        names = [f"{layer}.attention.{part}_proj" for part in "qkv"]
        _parts(out, names, s[f"{block}.attn.qkv.weight"], s[f"{block}.attn.qkv.bias"])
        del out[f"{layer}.attention.k_proj.bias"]
        _both(out, f"{layer}.attention.o_proj", s, f"{block}.attn.proj")
        for part in ("norm1", "norm2"):
            _both(out, f"{layer}.{part}", s, f"{block}.{part}")
        for theirs, ours in {"up": "fc1", "gate": "gate", "down": "fc2"}.items():
            _both(out, f"{layer}.mlp.{theirs}_proj", s, f"{block}.mlp.{ours}")
        for part in "12":
            out[f"{layer}.layer_scale{part}.lambda1"] = s[f"{block}.ls{part}.gamma"]
    _both(out, "norm", s, "norm")
    return out


def dinov3_gated_of_transformers():
    return dinov3_of_transformers("dinov3_gated")


def siglip2_of_open_clip():
    out = {f"visual.trunk.{name}": array for name, array in state("siglip2").items()}
    zeros = np.zeros((1, WIDTH), np.float32)
    unused = ("visual.trunk.attn_pool.latent", "visual.trunk.attn_pool.mlp.fc1.weight")
    unused += ("text.token_embedding.weight", "text.transformer.resblocks.0.ln_1.weight")
    return out | dict.fromkeys((*unused, "logit_scale", "logit_bias"), zeros)


def _vision_of_transformers(s):
    out = {}
    _both(out, "vision_model.embeddings.patch_embedding", s, "patch_embed.proj")
    out["vision_model.embeddings.position_embedding.weight"] = s["pos_embed"][0]
    for i in range(DEPTH):
        layer, block = f"vision_model.encoder.layers.{i}", f"blocks.{i}"
        names = [f"{layer}.self_attn.{part}_proj" for part in "qkv"]
        _parts(out, names, s[f"{block}.attn.qkv.weight"], s[f"{block}.attn.qkv.bias"])
        _both(out, f"{layer}.self_attn.out_proj", s, f"{block}.attn.proj")
        for part in "12":
            _both(out, f"{layer}.layer_norm{part}", s, f"{block}.norm{part}")
            _both(out, f"{layer}.mlp.fc{part}", s, f"{block}.mlp.fc{part}")
    _both(out, "vision_model.post_layernorm", s, "norm")
    return out


def siglip2_of_transformers():
    zeros = np.zeros((1, WIDTH), np.float32)
    unused = ("vision_model.head.probe", "vision_model.head.attention.in_proj_weight")
    unused += ("text_model.embeddings.token_embedding.weight", "text_model.head.bias")
    unused += ("text_model.encoder.layers.0.self_attn.q_proj.weight", "logit_scale", "logit_bias")
    return _vision_of_transformers(state("siglip2")) | dict.fromkeys(unused, zeros)


def clip_of_open_clip():
    s, out = state("clip"), {}
    for name, array in s.items():
        for ours, theirs in (
            ("norm_pre.", "visual.ln_pre."),
            ("norm.", "visual.ln_post."),
            ("patch_embed.proj.", "visual.conv1."),
        ):
            if name.startswith(ours):
                out[theirs + name.removeprefix(ours)] = array
        if name.startswith("blocks."):
            name = name.replace("blocks.", "visual.transformer.resblocks.")
            name = name.replace(".norm1.", ".ln_1.").replace(".norm2.", ".ln_2.")
            name = name.replace(".attn.qkv.", ".attn.in_proj_").replace(
                "attn.proj", "attn.out_proj"
            )
            out[name.replace(".fc1.", ".c_fc.").replace(".fc2.", ".c_proj.")] = array
        if name.startswith(
            ("transformer.", "token_e", "positional", "ln_final", "text_p", "logit")
        ):
            out[name] = array
    out["visual.class_embedding"] = s["cls_token"][0, 0]
    out["visual.positional_embedding"] = s["pos_embed"][0]
    return out | {"visual.proj": s["projection"]}


def clip_quick_of_transformers():
    return clip_of_transformers("clip_quick")


def clip_of_transformers(name="clip"):
    s = state(name)
    out = _vision_of_transformers(s) | {
        "vision_model.embeddings.class_embedding": s["cls_token"][0, 0],
        "vision_model.embeddings.position_ids": np.arange(17),
        "visual_projection.weight": s["projection"].T,
        "text_projection.weight": s["text_projection"].T,
        "text_model.embeddings.token_embedding.weight": s["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": s["positional_embedding"],
        "logit_scale": s["logit_scale"],
    }
    _both(out, "vision_model.pre_layrnorm", s, "norm_pre")
    _both(out, "text_model.final_layer_norm", s, "ln_final")
    for i in range(TEXT.depth):
        layer, block = f"text_model.encoder.layers.{i}", f"transformer.resblocks.{i}"
        names = [f"{layer}.self_attn.{part}_proj" for part in "qkv"]
        _parts(out, names, s[f"{block}.attn.in_proj_weight"], s[f"{block}.attn.in_proj_bias"])
        _both(out, f"{layer}.self_attn.out_proj", s, f"{block}.attn.out_proj")
        for part, mlp in (("1", "c_fc"), ("2", "c_proj")):
            _both(out, f"{layer}.layer_norm{part}", s, f"{block}.ln_{part}")
            _both(out, f"{layer}.mlp.fc{part}", s, f"{block}.mlp.{mlp}")
    return out


LAYOUTS = {
    "dinov2": (dinov2_of_project, dinov2_of_transformers),
    "dinov2_reg": (dinov2_reg_of_project, dinov2_reg_of_transformers),
    "dinov3": (dinov3_of_transformers,),
    "dinov3_gated": (dinov3_gated_of_transformers,),
    "siglip2": (siglip2_of_open_clip, siglip2_of_transformers),
    "clip": (clip_of_open_clip, clip_of_transformers),
    "clip_quick": (clip_quick_of_transformers,),
}


def write(path, arrays):
    """Writes a .safetensors file."""
    arrays = {name: np.array(array, order="C") for name, array in arrays.items()}
    safetensors.numpy.save_file(arrays, path)
    return path


class TorchTeacher:
    """The same networks by PyTorch's own operations."""

    def __init__(self, name: str):
        import torch

        self.torch, self.shape = torch, SMALL[name].image
        self.state = {key: torch.tensor(array) for key, array in state(name).items()}

    def outputs(self, images: np.ndarray):
        """The outputs of all blocks, and the last one behind the norm, of (B, H, W, 3)."""
        torch, s, shape = self.torch, self.state, self.shape
        x = torch.tensor(images).permute(0, 3, 1, 2)
        mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (shape.mean, shape.std))
        x = ((x + 1) / 2 - mean) / std
        x = torch.nn.functional.conv2d(
            *(x, s["patch_embed.proj.weight"], s.get("patch_embed.proj.bias")), stride=shape.patch
        )
        grid = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        if shape.class_token:
            x = torch.cat([s["cls_token"].expand(len(x), -1, -1), x], dim=1)
        if shape.table:
            x = x + s["pos_embed"]
        if shape.registers:
            registers = s["register_tokens"].expand(len(x), -1, -1)
            x = torch.cat([x[:, :1], registers, x[:, 1:]], dim=1)
        turn = None if shape.table else self._turning(*grid)
        if shape.norm_before:
            x = self._norm("norm_pre", x)
        outputs = []
        for i in range(DEPTH):
            block = f"blocks.{i}"
            names = f"{block}.attn.qkv.weight", f"{block}.attn.qkv.bias"
            y = self._attend(self._norm(f"{block}.norm1", x), *names, HEADS, turn=turn)
            y = self._linear(f"{block}.attn.proj", y)
            x = x + y * s.get(f"{block}.ls1.gamma", 1.0)
            y = self._norm(f"{block}.norm2", x)
            if shape.gelu == "swiglu":
                gate = torch.nn.functional.silu(self._linear(f"{block}.mlp.gate", y))
                y = gate * self._linear(f"{block}.mlp.fc1", y)
            else:
                y = self._gelu(self._linear(f"{block}.mlp.fc1", y))
            y = self._linear(f"{block}.mlp.fc2", y)
            x = x + y * s.get(f"{block}.ls2.gamma", 1.0)
            outputs.append(x.numpy())
        return outputs, self._norm("norm", x).numpy()

    def image_features(self, images):
        """Unit vectors (B, E)."""
        x = self.torch.tensor(self.outputs(images)[1][:, 0]) @ self.state["projection"]
        return self.torch.nn.functional.normalize(x, dim=-1).numpy()

    def text_features(self, text):
        """Unit vectors (B, E)."""
        torch, s = self.torch, self.state
        x = s["token_embedding.weight"][torch.tensor(text)]
        x = x + s["positional_embedding"][: text.shape[1]]
        for i in range(TEXT.depth):
            block = f"transformer.resblocks.{i}"
            names = f"{block}.attn.in_proj_weight", f"{block}.attn.in_proj_bias"
            y = self._attend(self._norm(f"{block}.ln_1", x), *names, TEXT.heads, causal=True)
            x = x + self._linear(f"{block}.attn.out_proj", y)
            y = self._linear(f"{block}.mlp.c_fc", self._norm(f"{block}.ln_2", x))
            x = x + self._linear(f"{block}.mlp.c_proj", self._gelu(y))
        x = self._norm("ln_final", x)[torch.arange(len(x)), torch.tensor(text.argmax(-1))]
        return torch.nn.functional.normalize(x @ s["text_projection"], dim=-1).numpy()

    def _gelu(self, x):
        if self.shape.gelu == "quick":
            return x * self.torch.sigmoid(1.702 * x)
        approximate = "tanh" if self.shape.gelu == "tanh" else "none"
        return self.torch.nn.functional.gelu(x, approximate=approximate)

    def _turning(self, rows, columns):
        """DINOv3's rotary positions, as complex numbers that multiply pairs of channels."""
        torch, quarter = self.torch, WIDTH // HEADS // 4
        periods = 100 ** (torch.arange(quarter) / quarter)
        turns = [
            (torch.arange(n) + 0.5) / n * 2 - 1 for n in (rows, columns)
        ]  # of the longest wave, before the periods
        y, x = torch.meshgrid(*turns, indexing="ij")
        waves = torch.cat([side.reshape(-1, 1) / periods for side in (y, x)], dim=1)
        return torch.polar(torch.ones_like(waves), 2 * torch.pi * waves)

    def _turned(self, x, turning):
        """The patches' queries or keys (B, heads, T, d), turned; the tokens before stay."""
        half, before = x.shape[-1] // 2, x.shape[2] - len(turning)
        pairs = self.torch.complex(x[..., :half].contiguous(), x[..., half:].contiguous())
        turned = pairs[:, :, before:] * turning
        turned = self.torch.cat([turned.real, turned.imag], dim=-1)
        return self.torch.cat([x[:, :, :before], turned], dim=2)

    def _norm(self, name, x):
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return self.torch.nn.functional.layer_norm(
            *(x, weight.shape, weight, bias), self.shape.epsilon
        )

    def _linear(self, name, x):
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return self.torch.nn.functional.linear(x, weight, bias)

    def _attend(self, x, weight, bias, heads, causal=False, turn=None):
        functional = self.torch.nn.functional
        qkv = functional.linear(x, self.state[weight], self.state[bias]).chunk(3, dim=-1)
        q, k, v = (y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in qkv)
        if turn is not None:
            q, k = self._turned(q, turn), self._turned(k, turn)
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return out.transpose(1, 2).flatten(2)
