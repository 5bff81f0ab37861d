"""Options of language models: config.json of Hugging Face, in both spellings, and back."""

import json

import pytest

from helpers import parity
from unitok_jax.models.transformer import Sizes
from unitok_jax.system.foreign_files import ConversionError
from unitok_jax.weights.llama_options import ARCHITECTURES, NO_SCALING, from_options, to_options

NAMES = ("llama2", "llama3", "qwen2", "qwen3")
SCALED = {"factor": 8.0, "low": 1.0, "high": 4.0, "original": 32}
# What stands in the public folders of these models, as far as it is read.
LLAMA2_7B = {
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "use_cache": True,
    "vocab_size": 32000,
}
LLAMA32_1B = LLAMA2_7B | {
    "attention_bias": False,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "vocab_size": 128256,
}
QWEN25_05B = {
    "architectures": ["Qwen2ForCausalLM"],
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 21,
    "model_type": "qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}


def manifest(name):
    """The configuration of a model of the goldens, as transformers 5 writes it."""
    found = parity.manifest("llama")[name]
    return found["config"] | {"architectures": [found["architecture"]]}


def before_5(config):
    """The same as transformers before version 5 wrote it."""
    rope = dict(config["rope_parameters"])
    config = {key: value for key, value in config.items() if key != "rope_parameters"}
    config["rope_theta"] = rope.pop("rope_theta")
    return config | {"rope_scaling": rope if rope["rope_type"] != "default" else None}


def refused(**changes):
    """The one line that a configuration is refused with; a key of `...` is left out."""
    config = {k: v for k, v in (LLAMA32_1B | changes).items() if v is not ...}
    with pytest.raises(ConversionError) as error:
        to_options(config)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


class TestReading:
    @pytest.mark.parametrize("name", NAMES)
    def test_both_spellings_are_the_same_model(self, name):
        config = manifest(name)
        found = to_options(config)
        assert to_options(before_5(config)) == found
        assert found.trunk == {
            "vocabulary": 96,
            "width": 48,
            "hidden": 80,
            "depth": 3,
            "heads": 6,
            "groups": 6 if name == "llama2" else 2,
            "head_width": 16 if name in ("llama3", "qwen3") else 8,
            "epsilon": 1e-6 if "qwen" in name else 1e-5,
            "rope_base": {"llama2": 1e4, "llama3": 5e5}.get(name, 1e6),
            "rope_scaling": SCALED if name == "llama3" else NO_SCALING,
            "qkv_bias": name == "qwen2",
            "qk_norm": name == "qwen3",
            "tied": name in ("llama3", "qwen2"),
        }
        assert found.positions == 256
        assert found.ids == {"bos": 1, "eos": 2, "pad": 0}

    def test_the_first_llama2_told_no_base(self):
        trunk = to_options(LLAMA2_7B).trunk
        assert (trunk["rope_base"], trunk["head_width"], trunk["tied"]) == (1e4, 128, False)

    def test_of_several_ends_the_first_is_taken(self):
        found = to_options(LLAMA32_1B)
        assert found.ids == {"bos": 128000, "eos": 128001}
        assert found.trunk["rope_scaling"] == SCALED | {"factor": 32.0, "original": 8192}

    def test_qwen_without_windows(self):
        trunk = to_options(QWEN25_05B).trunk
        assert (trunk["qkv_bias"], trunk["head_width"], trunk["groups"]) == (True, 64, 2)

    def test_the_type_tells_where_no_architecture_is_named(self):
        config = {k: v for k, v in QWEN25_05B.items() if k != "architectures"}
        assert to_options(config) == to_options(QWEN25_05B)

    def test_heads_of_qwen3_are_128_wide_unless_told(self):
        config = manifest("qwen3")
        del config["head_dim"]
        assert to_options(config).trunk["head_width"] == 128

    def test_keys_are_those_of_the_decoder(self):
        keys = to_options(LLAMA2_7B).trunk.keys()
        assert {"width", "heads", "hidden", "depth", "groups", "head_width", "epsilon"} <= keys
        assert {"width", "heads", "hidden", "depth", "groups", "head_width", "epsilon"} <= set(
            Sizes._fields
        )


class TestWriting:
    @pytest.mark.parametrize(
        "config", [LLAMA2_7B, LLAMA32_1B, QWEN25_05B, *map(manifest, NAMES)], ids=range(7)
    )
    def test_what_is_written_is_read_as_the_same(self, config):
        options = to_options(config)
        written = json.loads(json.dumps(from_options(options, "bfloat16")))
        assert to_options(written) == options
        assert written["torch_dtype"] == "bfloat16"
        assert written["architectures"] == config["architectures"]
        assert written["model_type"] == ARCHITECTURES[config["architectures"][0]].model_type

    def test_what_the_public_files_say_is_said(self):
        written = from_options(to_options(LLAMA32_1B), "float32")
        same = set(LLAMA32_1B) - {"eos_token_id", "pretraining_tp", "torch_dtype", "use_cache"}
        assert {key: written[key] for key in same} == {key: LLAMA32_1B[key] for key in same}

    def test_flags_of_no_architecture_are_refused(self):
        options = to_options(QWEN25_05B)
        options.trunk["qk_norm"] = True
        with pytest.raises(ConversionError, match="qkv_bias=True with model.qk_norm=True is of no"):
            from_options(options, "float32")


class TestRefusals:
    @pytest.mark.parametrize(
        "names", [["MistralForCausalLM"], "LlamaForCausalLM", ["LlamaForCausalLM"] * 2, [], [3]]
    )
    def test_an_unknown_architecture_lists_those_known(self, names):
        message = refused(architectures=names)
        assert "is not known; known: LlamaForCausalLM, Qwen2ForCausalLM, Qwen3" in message

    def test_an_unknown_type(self):
        message = refused(architectures=..., model_type="gpt2")
        assert "architecture 'gpt2' is not known" in message
        assert "architecture None is not known" in refused(architectures=..., model_type=...)

    def test_code_of_the_folder(self):
        message = refused(auto_map={"AutoModel": "modeling_x.X"})
        assert "asks for code of the folder to be run, which is refused" in message

    @pytest.mark.parametrize(
        "changes, words",
        [
            ({"vocab_size": ...}, "it lacks vocab_size"),
            ({"hidden_size": None}, "it lacks hidden_size"),
            ({"hidden_size": "2048"}, "hidden_size='2048' must be an integer from 1 to"),
            ({"hidden_size": 10**9}, "hidden_size=1000000000 must be"),
            ({"num_hidden_layers": 10**7}, "num_hidden_layers=10000000 must be"),
            ({"num_hidden_layers": True}, "num_hidden_layers=True must be"),
            ({"rms_norm_eps": float("nan")}, "rms_norm_eps=nan must be"),
            ({"num_key_value_heads": 5}, "num_key_value_heads=5 does not divide"),
            ({"head_dim": ..., "hidden_size": 2050}, "num_attention_heads=32 does not divide"),
            ({"head_dim": 65}, "head_dim=65 is odd"),
            ({"hidden_act": "gelu"}, "hidden_act='gelu': only hidden_act=silu is built"),
            ({"attention_bias": True}, "attention_bias=True: only attention_bias=False"),
            ({"mlp_bias": True}, "mlp_bias=True"),
            ({"use_sliding_window": True}, "use_sliding_window=True"),
            ({"layer_types": ["sliding_attention"]}, "only full_attention is built"),
            ({"layer_types": 3}, "layer_types=3"),
            ({"quantization_config": {"bits": 4}}, "quantization_config={'bits': 4}"),
            ({"tie_word_embeddings": 1}, "tie_word_embeddings=1 must be true or false"),
            ({"rope_theta": 0}, "rope_theta=0 must be above 0"),
            ({"rope_theta": "x"}, "rope_theta='x' must be at least 0"),
            ({"rope_scaling": []}, "rope_scaling=[] must be an object"),
            ({"rope_scaling": {"type": "linear", "factor": 2}}, "'linear' is not known"),
            ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters of the type 'yarn'"),
            ({"rope_scaling": {"rope_type": "llama3"}}, "it lacks factor"),
            ({"partial_rotary_factor": 0.5}, "only heads that turn as a whole"),
            ({"bos_token_id": 128256}, "bos_token_id=128256 is no id below vocab_size=128256"),
            ({"eos_token_id": [[]]}, "eos_token_id=[] is no id"),
            ({"max_position_embeddings": 0}, "max_position_embeddings=0"),
        ],
        ids=str,
    )
    def test_a_value_that_is_not_built(self, changes, words):
        assert words in refused(**changes)

    def test_bands_of_frequencies_that_cross(self):
        for changes in ({"high_freq_factor": 1.0}, {"factor": 0.5}, {"low_freq_factor": 0.0}):
            message = refused(rope_scaling=LLAMA32_1B["rope_scaling"] | changes)
            assert "factor must be at least 1, and low_freq_factor above 0" in message
