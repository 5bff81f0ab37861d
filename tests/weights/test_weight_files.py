"""Files of weights as they lie on disks, and files that were made to do harm."""

import argparse
import io
import json
import os
import pathlib
import pickle
import random
import struct
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from unitok_jax.system import foreign_files
from unitok_jax.weights import files, strangers, torch_files
from unitok_jax.weights.files import ConversionError, read_content, read_state

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")


def arrays():
    return {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b.bias": np.ones(2)}


def refused(path):
    """The one line that a file is refused with; it advises nothing unsafe."""
    with pytest.raises((ValueError, OSError)) as error:
        read_state(path)
    shown = [error.value]
    while shown[-1].__cause__ is not None:
        shown.append(shown[-1].__cause__)
    for each in shown:
        assert "weights_only" not in str(each) and "arbitrary code" not in str(each)
    assert len(str(error.value).splitlines()) == 1 and path.name in str(error.value)
    return str(error.value)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def saved(tmp_path, torch):
    """Saves what it is given as a .pth and returns the path."""

    def save(content, **options):
        torch.save(content, tmp_path / "x.pth", **options)
        return tmp_path / "x.pth"

    return save


class TestNames:
    @pytest.mark.parametrize(
        "wrap",
        [
            "module.{}",
            "_orig_mod.{}",
            "module._orig_mod.{}",
            "_orig_mod.module.{}",
            "_fsdp_wrapped_module.{}",
        ],
    )
    def test_words_of_wrappers_are_left_out(self, tmp_path, wrap):
        path = tmp_path / "x.safetensors"
        safetensors.numpy.save_file({wrap.format(k): v for k, v in arrays().items()}, path)
        assert read_state(path)[1].keys() == arrays().keys()

    def test_inside_of_names_and_in_some_only(self, tmp_path):
        names = {"a._orig_mod.weight": "a.weight", "b.bias": "b.bias", "c.module.w": "c.w"}
        path = tmp_path / "x.safetensors"
        safetensors.numpy.save_file({name: np.ones(1) for name in names}, path)
        assert set(read_state(path)[1]) == set(names.values())

    def test_two_that_become_one(self, tmp_path):
        path = tmp_path / "x.safetensors"
        safetensors.numpy.save_file({"a._orig_mod.w": np.ones(1), "a.w": np.ones(1)}, path)
        assert "two entries are a.w" in refused(path)


class TestNoWeights:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize(
        "content, words",
        [
            (POINTER, "pointer of Git LFS"),
            ("", "is empty"),
            ("\n <!DOCTYPE html><html>Sign in</html>", "a web page"),
            ("<?xml version='1.0'?><Error>", "a web page"),
        ],
    )
    def test_what_downloads_leave(self, tmp_path, suffix, content, words):
        path = tmp_path / f"x{suffix}"
        path.write_text(content)
        assert words in refused(path)

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_no_regular_file(self, tmp_path, suffix):
        pipe, folder = tmp_path / f"pipe{suffix}", tmp_path / f"folder{suffix}"
        os.mkfifo(pipe)
        folder.mkdir()
        device = tmp_path / f"zero{suffix}"
        device.symlink_to("/dev/zero")
        assert "is a pipe" in refused(pipe)
        assert "is a folder" in refused(folder)
        assert "is a device" in refused(device)

    @pytest.mark.parametrize(
        "name, words",
        [
            ("x.py", "Python code, such as the configuration of a run"),
            ("x.PNG", "an image"),
            ("00.tar", "data"),
            ("x.npz", "arrays of NumPy"),
            ("x.safetensors.zst", "compressed: unpack it first"),
            ("x.gguf", "weights of another library"),
            ("x", "an unknown kind"),
        ],
    )
    def test_another_suffix(self, tmp_path, name, words):
        (tmp_path / name).write_text("content")
        assert words in refused(tmp_path / name)

    def test_folders_are_described_by_their_names(self, tmp_path):
        assert strangers.describe(tmp_path) == "an empty folder"
        (tmp_path / "cats").mkdir()
        (tmp_path / "cats" / "1.JPG").touch()
        assert strangers.describe(tmp_path) == "a folder of images"
        (tmp_path / "manifest.json").touch()
        assert "tokenize" in strangers.describe(tmp_path)
        (tmp_path / "export.json").touch()
        assert "exported" in strangers.describe(tmp_path)

    def test_a_home_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        safetensors.numpy.save_file(arrays(), tmp_path / "x.safetensors")
        assert read_state("~/x.safetensors")[1].keys() == arrays().keys()


def tensors_file(path, header, data=b"", length=None):
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(head) if length is None else length
    path.write_bytes(struct.pack("<Q", length) + head + data)
    return path


def entry(*offsets, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


class TestSafetensors:
    @pytest.mark.parametrize(
        "header, length",
        [
            ({"a": entry(0, 4), "b": entry(0, 4)}, None),
            ({"a": entry(0, 4), "b": entry(2, 6)}, None),
            ({"a": entry(0, 4000, shape=(1000,))}, None),
            ({"a": entry(0, 4, shape=(2**62, 4))}, None),
            ({"a": entry(0, 8, shape=(1,) * 100 + (2,))}, None),
            ({"a": entry(0, 8)}, 2**60),
            ({"a": entry(0, 8)}, 2**64 - 1),
            (b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}", None),
            (b'{"a":1', None),
            ([1], None),
        ],
    )
    def test_headers_that_lie(self, tmp_path, header, length):
        path = tensors_file(tmp_path / "x.safetensors", header, bytes(8), length)
        assert "not a safetensors file" in refused(path)

    @pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
    def test_float8_is_named(self, tmp_path, dtype):
        header = {"w": entry(0, 1, dtype=dtype)}
        path = tensors_file(tmp_path / "x.safetensors", header, bytes(1))
        assert f"w has the dtype {dtype}, without their scales" in refused(path)

    def test_bfloat16_is_read(self, tmp_path):
        half = np.array([1.5, -2], np.float32).view(np.uint16)[1::2].tobytes()
        header = {"w": entry(0, 4, shape=(2,), dtype="BF16")}
        state = read_state(tensors_file(tmp_path / "x.safetensors", header, half))[1]
        np.testing.assert_array_equal(np.asarray(state["w"], np.float32), [1.5, -2])

    @pytest.mark.parametrize("args", ["[" * 10**5, "[1]", "{", "1", '{"a": ' + "9" * 5000 + "}"])
    def test_options_that_are_no_object(self, tmp_path, args):
        path = tmp_path / "x.safetensors"
        safetensors.numpy.save_file(arrays(), path, {"args": args})
        assert "metadata entry 'args'" in refused(path)


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


class TestTorch:
    def test_parameters_and_half_precision(self, saved, torch):
        state = {
            "a": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)),
            "b": torch.arange(3),
            "c": torch.ones(4)[::2],
        }
        found = read_state(saved(state))[1]
        assert {name: array.dtype for name, array in found.items()} == dict.fromkeys(
            "abc", np.float32
        )
        np.testing.assert_array_equal(found["b"], [0, 1, 2])

    def test_older_format(self, saved, torch):
        path = saved({"a": torch.ones(2)}, _use_new_zipfile_serialization=False)
        np.testing.assert_array_equal(read_state(path)[1]["a"], [1, 1])

    @pytest.mark.parametrize("older", [False, True])
    def test_a_value_that_is_repeated(self, saved, torch, older):
        state = {"a": torch.zeros(1, dtype=torch.int8).expand(10**12)}
        path = saved(state, _use_new_zipfile_serialization=not older)
        assert "4,000,000,000,000 as float32, over 8 times" in refused(path)

    def test_views_of_one_storage(self, saved, torch):
        whole = torch.ones(10**5)
        assert read_state(saved({str(i): whole for i in range(4)}))[1]["3"].size == 10**5
        assert "over 8 times" in refused(saved({str(i): whole for i in range(9)}))

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize(
        "make, words",
        [
            (lambda t: t.sparse_coo_tensor([[0]], [1.0], (10**12,)), "sparse"),
            (lambda t: t.eye(3).to_sparse_csr(), "sparse"),
            (lambda t: t.ones(10**6, device="meta"), "without values, on the device meta"),
            (lambda t: t.quantize_per_tensor(t.ones(4), 0.1, 0, t.quint8), "quantized"),
            (lambda t: t.ones(2, dtype=t.complex64), "complex64"),
            (lambda t: t.ones(2).to(t.float8_e4m3fn), "float8_e4m3fn"),
            (lambda t: t.nn.Buffer(t.ones(2)) if hasattr(t.nn, "Buffer") else t.ones(2), ""),
        ],
        ids=["coo", "csr", "meta", "quantized", "complex", "float8", "buffer"],
    )
    def test_other_kinds_of_tensors(self, saved, torch, make, words):
        path = saved({"w": make(torch), "b": torch.ones(2)})
        if words:
            assert words in refused(path)
        else:
            assert read_state(path)[1]["w"].shape == (2,)

    @pytest.mark.parametrize(
        "function, arguments",
        [
            (bytearray, (1 << 62,)),
            (bytearray, (-1,)),
            (set, (1,)),
            (complex, ([],)),
            (__import__("collections").Counter, (1,)),
        ],
    )
    def test_calls_that_fail_in_their_own_ways(self, saved, function, arguments):
        assert "cannot be loaded safely" in refused(saved({"a": Call(function, *arguments)}))

    @pytest.mark.parametrize("older", [False, True])
    def test_code_is_named_and_not_run(self, saved, tmp_path, older):
        evil = Call(os.system, f"touch {tmp_path / 'trace'}")
        message = refused(saved({"w": evil}, _use_new_zipfile_serialization=not older))
        assert "system" in message and "cannot be loaded safely" in message
        assert not (tmp_path / "trace").exists()

    @pytest.mark.parametrize("older", [False, True])
    def test_options_of_argparse(self, saved, torch, older):
        content = {"args": argparse.Namespace(a=1), "model": {"w": torch.ones(1)}, "steps": 3}
        path = saved(content, _use_new_zipfile_serialization=not older)
        args, state = read_state(path)
        assert args == {"a": 1} and state["w"] == 1
        # The class that stands for the options is allowed for them alone.
        evil = argparse.Namespace(a=Call(os.system, "true"))
        assert "system" in refused(saved({"args": evil, "model": {"w": torch.ones(1)}}))
        assert "not a state dict: ['args']" in refused(saved({"args": content["args"]}))

    @pytest.mark.parametrize(
        "content, words",
        [
            ({"model": {}}, "not a state dict"),
            ({"model": {"a": {"b": 1}}}, "not a state dict"),
            ({"args": [1], "model": {"a": 1}}, "'args' is a list, not options"),
            ({"state_dict": 1}, "is no state dict"),
        ],
    )
    def test_training_checkpoints_of_something_else(self, saved, content, words):
        assert words in refused(saved(content))

    def test_what_is_not_taken_is_not_read(self, saved, torch):
        """The file is mapped: the optimizer's arrays, twice the weights, take no memory."""
        path = saved({"model": {"w": torch.ones(10**5)}, "optimizer": {"m": torch.ones(10**5)}})
        state = read_state(path)[1]
        assert state["w"].sum() == 10**5
        assert str(path) in pathlib.Path("/proc/self/maps").read_text()

    def test_average_and_trained_weights(self, saved, torch, tmp_path):
        both = {"model": {"w": torch.ones(1)}, "ema": {"w": torch.zeros(1)}}
        for weights, value in ((None, 0), ("ema", 0), ("raw", 1)):
            args, state, found = read_content(saved(both), weights)
            assert args is None and state["w"] == value and found == ("raw" if value else "ema")
        one = saved({"model": both["model"]})
        assert read_content(one).weights == "raw"
        with pytest.raises(ConversionError, match="holds no average.*weights=raw"):
            read_content(one, "ema")
        bare = saved(both["model"])
        assert read_content(bare).weights is None
        with pytest.raises(ConversionError, match="does not say whether"):
            read_content(bare, "raw")

    def test_names_that_are_no_text(self, saved, torch):
        assert "not a state dict: [3]" in refused(saved({3: torch.ones(1)}))

    def test_a_program(self, tmp_path, torch):
        module = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))
        torch.jit.save(module, tmp_path / "x.pt")
        assert "TorchScript" in refused(tmp_path / "x.pt")

    def test_another_archive(self, tmp_path, torch):
        np.savez(tmp_path / "x.npz", a=1)
        (tmp_path / "x.npz").rename(tmp_path / "x.pth")
        assert "not one that torch.save wrote" in refused(tmp_path / "x.pth")

    def test_an_archive_that_unpacks_to_more(self, tmp_path, saved, torch):
        whole = saved({"a": torch.zeros(10**6)})
        with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(tmp_path / "y.pth", "w") as new:
            for member in archive.infolist():
                content = archive.read(member)
                new.writestr(member.filename, content, zipfile.ZIP_DEFLATED)
        assert "compressed members" in refused(tmp_path / "y.pth")

    def test_a_storage_that_says_it_is_longer(self, tmp_path, saved, torch):
        """PyTorch takes the word of the pickle for the length of what lies beside it."""
        whole = saved({"a": torch.zeros(1000)})
        with zipfile.ZipFile(whole) as archive, zipfile.ZipFile(tmp_path / "y.pth", "w") as new:
            for member in archive.infolist():
                content = archive.read(member)
                if member.filename.endswith("data.pkl"):
                    # 1000 as a BININT2, of the storage and of the shape
                    content = content.replace(b"M\xe8\x03", b"J\x00\xe1\xf5\x05")
                new.writestr(member.filename, content)
        refused(tmp_path / "y.pth")

    def test_tars_are_never_opened(self, tmp_path, torch):
        with tarfile.open(tmp_path / "x.pth", "w") as tar:
            tar.addfile(tarfile.TarInfo("storages"), io.BytesIO())
        assert "not a PyTorch file" in refused(tmp_path / "x.pth")

    @pytest.mark.parametrize("content", [pickle.dumps({"a": 1}), pickle.dumps({}, 0), b"garbage"])
    def test_other_pickles(self, tmp_path, torch, content):
        (tmp_path / "x.pth").write_bytes(content)
        assert "not a PyTorch file" in refused(tmp_path / "x.pth")


class TestDamage:
    """Damaged files give weights or one line: fixed seeds, each flip or cut a file of its own."""

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("kind", ["safetensors", "zip", "older"])
    def test_flips_and_cuts(self, tmp_path, kind):
        path = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pth")
        if kind == "safetensors":
            safetensors.numpy.save_file(arrays(), path, {"args": json.dumps({"a": 1})})
        else:
            torch = pytest.importorskip("torch")
            state = {name: torch.tensor(array) for name, array in arrays().items()}
            content = {"args": {"a": [1, "x", 2.5]}, "trainer": {"unitok": state}}
            torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
        whole, draw, refusals = path.read_bytes(), random.Random(0), 0
        for _ in range(400):
            damaged = bytearray(whole)
            for _ in range(draw.choice((1, 1, 2, 8))):
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
            if draw.random() < 0.25:
                del damaged[draw.randrange(len(damaged)) :]
            path.write_bytes(damaged)
            try:
                read_state(path)
            except (ValueError, OSError) as error:
                assert path.name in str(error) and "weights_only" not in str(error)
                refusals += 1
        assert refusals > 100


class TestOutputs:
    def test_a_link_stays_one(self, tmp_path):
        (tmp_path / "link.safetensors").symlink_to(tmp_path / "x.safetensors")
        files.write_safetensors(arrays(), tmp_path / "link.safetensors")
        assert (tmp_path / "link.safetensors").is_symlink()
        assert read_state(tmp_path / "x.safetensors")[1].keys() == arrays().keys()

    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    def test_a_full_disk(self, tmp_path, suffix):
        """A limit on the size of files stands for it."""
        if suffix == ".pth":
            pytest.importorskip("torch")
        path = tmp_path / f"x{suffix}"
        path.write_text("mine")
        code = (
            "import pathlib, resource, signal, numpy as np\n"
            "from unitok_jax.weights import torch_files, files as weight_files\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            f"path, state = pathlib.Path({str(path)!r}), {{'a': np.ones(10**6, np.float32)}}\n"
            f"write = weight_files.write_safetensors if {suffix!r} == '.safetensors' else (\n"
            "    lambda state, path: torch_files.write(path, {}, state))\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))\n"
            "try:\n    write(state, path)\n"
            "except OSError as error:\n    print('refused', error)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.startswith(f"refused {path} cannot be written"), done
        assert path.read_text() == "mine" and os.listdir(tmp_path) == [path.name]


def test_a_file_is_looked_at_before_it_is_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        foreign_files.check_file(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"a" * 1000)
    assert foreign_files.check_file(tmp_path / "x") == b"a" * foreign_files.HEAD
    with pytest.raises(FileNotFoundError, match="does not exist"):
        foreign_files.check_file(tmp_path / "x" / "y")


def test_without_torch_the_message_names_what_needs_none(tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from unitok_jax.weights import files as weight_files\n"
        f"path = {str(tmp_path / 'x.pth')!r}\n"
        "open(path, 'wb').write(b'PK\\x03\\x04')\n"
        "try: weight_files.read_state(path)\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "x.pth: .pth files need PyTorch" in done.stdout, done


def test_the_expansion_that_is_allowed_covers_int8():
    assert torch_files.EXPANSION >= 4 and ConversionError is foreign_files.ConversionError
