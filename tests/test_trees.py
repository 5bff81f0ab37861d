"""Parts of parameters by glob."""

import jax
import numpy as np
import pytest

from configs import tiny
from unitok_jax import trees
from unitok_jax.models.unitok import abstract_model


@pytest.fixture(scope="module")
def abstract():
    return abstract_model(tiny.get_config().model.to_dict())[1]


TREE = {
    "b": {10: {"x": np.arange(2)}, 2: {"x": np.arange(3)}},
    "a": {"kernel": np.arange(4), "empty": {}},
    "c": np.arange(5),
}


class TestMask:
    def test_a_part_is_everything_below_it(self, abstract):
        mask = trees.name_mask(abstract, ("encoder.*",))
        assert all(jax.tree.leaves(mask["encoder"]))
        assert not any(jax.tree.leaves({k: v for k, v in mask.items() if k != "encoder"}))
        assert jax.tree.structure(mask) == jax.tree.structure(abstract)

    def test_a_text_encoder_is_no_encoder(self, abstract):
        assert not any(jax.tree.leaves(trees.name_mask(abstract, ("encoder.*",))["text_encoder"]))

    def test_integer_keys_and_single_leaves(self, abstract):
        mask = trees.name_mask(abstract, ("encoder.stages.0.*", "logit_scale", "*.q_bias"))
        chosen = [name for name, value in trees.flatten(mask).items() if value]
        assert "logit_scale" in chosen and "quant_proj.attn.q_bias" in chosen
        assert "encoder.stages.0.1.conv1_1x1.kernel" in chosen
        assert not [name for name in chosen if name.startswith("encoder.stages.1")]

    def test_no_pattern_matches_nothing(self, abstract):
        assert not any(jax.tree.leaves(trees.name_mask(abstract, ())))

    @pytest.mark.parametrize(
        "pattern, words",
        [
            ("encodr.*", r"optim\.frozen: 'encodr\.\*' matches no parameter; near: .*encoder\.\*"),
            ("encoder", r"'encoder' matches no parameter; near: encoder\.\*"),
            ("Encoder.*", "top level: decoder"),
            ("encoder.block.*", r"near: .*encoder\.blocks\.\*"),
            ("zzz", r"parameter; top level: decoder\.\*, .*logit_scale"),
        ],
    )
    def test_a_pattern_that_matches_nothing(self, abstract, pattern, words):
        with pytest.raises(ValueError, match=words):
            trees.name_mask(abstract, ("decoder.*", pattern), "optim.frozen")

    def test_a_string_is_not_a_tuple_of_letters(self, abstract):
        with pytest.raises(ValueError, match=r"optim.frozen='\*' must be a tuple"):
            trees.name_mask(abstract, "*", "optim.frozen")


class TestSplit:
    @pytest.mark.parametrize(
        "patterns", [("b.*",), ("b.10.x", "c"), ("*",), (), ("a.kernel", "b.2.*")]
    )
    def test_merge_is_the_inverse(self, patterns):
        matching, rest = trees.split(TREE, patterns)
        whole = trees.merge(matching, rest)
        assert jax.tree.structure(whole) == jax.tree.structure(TREE)
        for ours, theirs in zip(jax.tree.leaves(whole), jax.tree.leaves(TREE), strict=True):
            assert ours is theirs
        assert len(jax.tree.leaves(matching)) + len(jax.tree.leaves(rest)) == 4

    def test_of_a_whole_model(self, abstract):
        matching, rest = trees.split(abstract, ("encoder.*", "*.bias"))
        assert "encoder" not in rest and "bias" in matching["decoder"]["norm"]
        for whole in (trees.merge(matching, rest), trees.merge(rest, matching)):
            assert list(trees.flatten(whole).items()) == list(trees.flatten(abstract).items())
            assert list(whole) == list(abstract)

    def test_no_empty_parts(self):
        matching, rest = trees.split(TREE, ("b.10.*",))
        assert list(matching) == ["b"] and list(matching["b"]) == [10]
        assert list(rest["b"]) == [2]

    @pytest.mark.parametrize("other", [{"b": {2: {"x": 1}}}, {"b": 1}])
    def test_parts_that_overlap(self, other):
        with pytest.raises(ValueError, match=r"both parts hold b"):
            trees.merge(TREE, other)
