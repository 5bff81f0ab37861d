"""Shards of a WebDataset as tests make and read them."""

import io
import tarfile

from PIL import Image

from helpers import formats
from unitok_jax.data.tars.source import tar_source


def picture(level=0):
    """A JPEG of 24 x 16 pixels."""
    file = io.BytesIO()
    Image.new("RGB", (24, 16), (level, 0, 0)).save(file, "JPEG")
    return file.getvalue()


def make_tar(path, members, **options):
    """A tar of (name, content)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                content = content.encode()
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def sample(key, caption="a caption", level=0):
    return [(f"{key}.jpg", picture(level)), (f"{key}.txt", caption)]


def two_shards(folder):
    """Two shards of three samples each."""
    for shard in range(2):
        members = [m for i in range(3) for m in sample(f"{i:04}", f"{shard} {i}", 40 * i)]
        make_tar(folder / f"{shard}.tar", members)
    return folder


def config(path, **values):
    """The `data` config of tars."""
    return formats.config("tar", path, **{"batch_size": 2, **values})


def captions(source):
    return {source[i]["name"]: source[i]["captions"] for i in range(len(source))}


def left_out(source):
    return {reason: source.tally.names[reason] for reason in source.tally.counts}


def one(tmp_path, members, captions="", require_captions=True, **options):
    """The source of one shard of these members."""
    path = make_tar(tmp_path / "a.tar", members, **options)
    return tar_source(str(path), captions, require_captions=require_captions)
