"""--config: files from any folder, what is wrong with them in one line, and keys that are near."""

import subprocess
import sys

import pytest
from absl import flags
from ml_collections.config_flags import DEFINE_config_file

from configs import default
from unitok_jax.commands import config_flags


def parsed(*arguments):
    """What a command would get."""
    values, argv = flags.FlagValues(), ["command", *map(str, arguments)]
    DEFINE_config_file("config", None, flag_values=values, sys_argv=argv)
    config_flags.parse(argv, values)
    return values.config


def refused(*arguments):
    with pytest.raises(flags.Error) as error:
        parsed(*arguments)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    return str(error.value)


class TestFromAnyFolder:
    @pytest.fixture(autouse=True)
    def elsewhere(self, tmp_path, monkeypatch):
        """The working folder holds a package of the same name, as many projects do."""
        self.root = config_flags._HOME
        (tmp_path / "work" / "configs").mkdir(parents=True)
        (tmp_path / "work" / "configs" / "__init__.py").write_text("raise RuntimeError('mine')")
        monkeypatch.chdir(tmp_path / "work")
        monkeypatch.syspath_prepend(str(tmp_path / "work"))
        self.folder = tmp_path

    def test_a_config_of_this_package(self):
        assert parsed(f"--config={self.root}/configs/tiny_full.py").frozen.lpips == "seeded"

    def test_one_of_a_user_with_neighbours(self):
        (self.folder / "base.py").write_text(
            "from configs import tiny\ndef get_config():\n    return tiny.get_config()\n"
        )
        (self.folder / "mine.py").write_text(
            "import base\nfrom configs import base as same\ndef get_config():\n"
            "    assert same\n    config = base.get_config()\n    config.steps = 7\n"
            "    return config\n"
        )
        config = parsed("--config", self.folder / "mine.py", "--config.seed=3")
        assert (config.steps, config.seed, config.model.size) == (7, 3, "tiny")
        assert not [name for name in sys.modules if name.startswith("configs.base")]
        assert str(self.folder) not in sys.path

    def test_neighbours_go_before_this_package(self):
        (self.folder / "tiny.py").write_text(
            "from configs import default\n"
            "def get_config():\n    c = default.get_config()\n    c.steps = 5\n    return c\n"
        )
        (self.folder / "mine.py").write_text("from configs.tiny import get_config\n")
        assert parsed(f"--config={self.folder}/mine.py").steps == 5

    def test_a_home(self, monkeypatch):
        monkeypatch.setenv("HOME", str(self.folder))
        (self.folder / "mine.py").write_text("from configs.tiny import get_config\n")
        assert parsed("--config=~/mine.py").model.size == "tiny"
        assert parsed("--config", "~/mine.py").model.size == "tiny"

    @pytest.mark.parametrize("command", ["train", "fit", "data preview", "data pack", "inspect"])
    def test_every_command_that_reads_one(self, command):
        file = self.folder / "bad.py"
        file.write_text("from configs import default\n\nimport no_such_module\n")
        done = subprocess.run(
            [sys.executable, "-m", "unitok_jax", *command.split(), f"--config={file}"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2 and done.stderr == (
            f"error: --config={file}: ModuleNotFoundError: No module named 'no_such_module' "
            f"({file}, line 3)\n"
        )


@pytest.mark.parametrize(
    "text, told",
    [
        ("def get_config(:\n", "SyntaxError: invalid syntax ({}, line 1)"),
        ("\nx = nothing\n", "NameError: name 'nothing' is not defined ({}, line 2)"),
        ("def get_config():\n    return {{}}['a']\n", "KeyError: 'a' ({}, line 2)"),
        (
            "def get_config():\n    return 1 / 0\n",
            "ZeroDivisionError: division by zero ({}, line 2)",
        ),
        ("def get_config():\n    int('x')\n", "invalid literal for int() with base 10: 'x' ({}, l"),
        (
            "from configs import no_such\n",
            "ImportError: cannot import name 'no_such' from 'configs'",
        ),
        ("def get_config():\n    pass\n", "get_config() returns NoneType, no ConfigDict"),
        ("config = 1\n", "the file defines no function get_config()"),
        (
            "from configs import tiny\ndef get_config():\n    c = tiny.get_config()\n"
            "    c.optim.lr = 1\n    return c\n",
            'AttributeError: \'Key "lr" does not exist and cannot be added',
        ),
        (
            "from configs import tiny\ndef get_config():\n    c = tiny.get_config()\n"
            "    c.steps = 'many'\n    return c\n",
            "TypeError: ",
        ),
    ],
)
def test_what_is_wrong_in_a_file(tmp_path, text, told):
    file = tmp_path / "mine.py"
    file.write_text(text.replace("{{}}", "{}"))
    message = refused(f"--config={file}")
    assert message.startswith(f"--config={file}: ") and told.format(file) in message
    assert ", line " in message or "get_config()" in message


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--config=configs/tiny"], "there is no such file; did you mean configs/tiny.py?"),
        (["--config=configs"], "--config=configs: there is no such file"),
        (["--config=configs/b16.py:big"], "configs/b16.py has no variants; leave :big out"),
        (["--config=configs/ablations.py:book4"], "did you mean books4?"),
        (["--config.steps=5"], "--config is missing; for example"),
        (["--config=configs/tiny.py", "--config.model=1"], "--config.model: the config has no key"),
        (["--config=configs/tiny.py", "--config.steps=1e3"], "expected a value of type int"),
        (["--config=configs/tiny.py", "--config.data.image_size=(1,"], "write it as"),
        (["--config=configs/tiny.py", "--lr=1"], "keys are set as --config.optim.learning_rate="),
        (["--config=configs/tiny.py", "--stepz=1"], "keys are set as --config.steps="),
    ],
)
def test_what_is_wrong_on_a_command_line(arguments, told):
    assert told in refused(*arguments)


@pytest.mark.parametrize(
    "key, near",
    [
        ("optim.lr", "optim.learning_rate"),
        ("lr", "optim.learning_rate"),
        ("gan.lr", "gan.learning_rate"),
        ("gan.wd", "gan.weight_decay"),
        ("epochs", "steps"),
        ("train.num_epochs", "steps"),
        ("batch", "data.batch_size"),
        ("batch_size", "data.batch_size"),
        ("eval.batch", "eval.batch_size"),
        ("wd", "optim.weight_decay"),
        ("ema", "optim.ema_decay"),
        ("resolution", "data.image_size"),
        ("vocab", "model.vocab_size"),
        ("model.codebooks", "model.num_codebooks"),
        ("num-workers", "data.num_workers"),
        ("precision", "model.dtype"),
        ("optim.learing_rate", "optim.learning_rate"),
    ],
)
def test_the_key_that_is_meant_comes_first(key, near):
    types = config_flags.key_types(default.get_config())
    assert config_flags.near_keys(key, list(types))[0] == near


def test_synonyms_name_keys_and_are_none():
    types = config_flags.key_types(default.get_config())
    assert types["optim.betas"] is tuple and types["data.batch_size"] is int
    for word, keys in config_flags.SYNONYMS.items():
        assert set(keys) <= types.keys() and word not in types, word
