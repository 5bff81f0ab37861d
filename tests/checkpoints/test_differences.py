"""What of a configuration, and which facts, are compared with those of a checkpoint."""

import json

from configs import default
from unitok_jax.checkpoints import differences
from unitok_jax.checkpoints.reader import weights_hash
from unitok_jax.weights import initialize


class TestSavedConfig:
    def test_where_data_lie_plays_no_part(self):
        """Nor does what changes no meaning of weights; what does is told."""
        saved = default.get_config().to_dict()
        now = json.loads(json.dumps(saved))
        saved["data"] |= {"source": "mixture", "mixture": ((1.0, "tar", "/a/1.tar"),)}
        now["data"] |= {"source": "tar", "path": "/b", "captions": "/c.jsonl", "index": "/d"}
        now["eval"] |= {"source": "folder", "path": "/e"}
        now["model"] |= {"remat": "none", "dtype": "float32", "drop_path": 0.0}
        now["model"] |= {"commitment_weight": 1.0, "residual_dtype": "float32"}
        assert differences.config_differences(saved, now) == []
        now["model"]["num_query"] = 3
        assert differences.config_differences(saved, now) == ["model.num_query: saved 0, now 3"]

    def test_one_that_knows_no_mixtures(self, caplog):
        saved, now = {"data": {"source": "tar"}}, {"data": {"source": "tar", "mixture": ()}}
        with caplog.at_level("INFO"):
            assert differences.config_differences(saved, now) == []
        assert not caplog.text

    def test_one_that_lacks_keys_of_the_model(self):
        """Its weights have the same hash, and start runs of models that say what it did."""
        now = default.get_config().to_dict()
        later = ("fsq_levels", "quant_causal")
        older = {key: value for key, value in now["model"].items() if key not in later}
        assert differences.config_differences({**now, "model": older}, now) == []
        assert initialize.training_differences({**now, "model": older}, now) == []
        assert weights_hash(older, {}) == weights_hash(now["model"], {})
        set_now = now["model"] | {"fsq_levels": (8, 8)}
        assert weights_hash(set_now, {}) != weights_hash(older, {})
        (line,) = initialize.training_differences(now, {**now, "model": set_now})
        assert line == "model.fsq_levels: saved [], now [8, 8]"
        causal = now["model"] | {"quant_causal": True}
        assert weights_hash(causal, {}) != weights_hash(older, {})
        read = json.loads(json.dumps(set_now))
        assert (
            initialize.training_differences({**now, "model": read}, now | {"model": set_now}) == []
        )

    def test_changes_are_logged(self, caplog):
        with caplog.at_level("INFO"):
            differences.config_differences({"model": {"remat": "a"}}, {"model": {"remat": "b"}})
        line = "the configuration changed since the checkpoint: model.remat: saved 'a', now 'b'"
        assert line in caplog.text


class TestFacts:
    def test_the_first_of_many_that_differ_is_told(self):
        saved = {"n": 1, "samples": {"3": "a", "5": "b", "7": "c"}}
        now = {"n": 1, "samples": {"3": "a", "5": "x", "7": "y", "9": "what was not read then"}}
        assert differences.fact_differences(saved, saved) == []
        told = ["samples: 5: saved 'b', now 'x' (and 1 more)"]
        assert differences.fact_differences(saved, now) == told

    def test_what_a_run_does_not_know_is_kept(self):
        saved, now = {"n": 1, "hash": "abc", "old": 2}, {"n": 1, "hash": None}
        assert differences.fact_differences(saved, now) == []
        assert differences.completed(now, saved) == {"n": 1, "hash": "abc"}
        assert differences.completed(now, {"n": 1}) == now

    def test_an_older_checkpoint_that_tells_less(self, caplog):
        assert differences.fact_differences({"n": 1}, {"n": 1, "samples": {"3": "a"}}) == []
        assert "the checkpoint does not tell its samples, which are not compared" in caplog.text
