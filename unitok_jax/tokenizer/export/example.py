"""Encodes an image and decodes its codes with an exported tokenizer: python example.py IMAGE.

It needs jax, flatbuffers, numpy, safetensors and pillow, and the files beside it. It writes
codes.npy and rebuilt.png into the working directory.
"""

import json
import pathlib
import sys

import jax
import numpy as np
from PIL import Image, ImageOps
from safetensors.numpy import load_file

HERE = pathlib.Path(__file__).parent


def program(name):
    """One of the exported functions, compiled at its first call for each batch size."""
    return jax.jit(jax.export.deserialize(bytearray((HERE / name).read_bytes())).call)


def main():
    """Encode, decode, write."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    facts = json.loads((HERE / "export.json").read_text())
    height, width = facts["image_size"]
    count = facts["batch_size"] or 1
    weights = jax.device_put(load_file(HERE / "weights.safetensors"))
    encode, decode = program("encode.jax"), program("decode.jax")

    with Image.open(sys.argv[1]) as file:
        upright = ImageOps.exif_transpose(file).convert("RGBA")
    on_white = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    image = ImageOps.fit(on_white.convert("RGB"), (width, height), Image.Resampling.BICUBIC)
    images = np.stack([np.asarray(image)] * count)  # uint8 (B, H, W, 3)
    codes = np.asarray(encode(weights, images))  # int32 (B, K, N)
    rebuilt = np.asarray(decode(weights, codes))  # uint8 (B, H, W, 3)

    np.save("codes.npy", codes)
    Image.fromarray(rebuilt[0]).save("rebuilt.png")
    print(f"codes {codes.shape}, from {codes.min()} to {codes.max()}; codes.npy and rebuilt.png")


if __name__ == "__main__":
    main()
