"""Runs of experiments that were stopped and are given again."""

from experiments.running import is_saved
from unitok_jax.weights import load


def test_a_save_that_was_killed_is_made_again(tmp_path, weights):
    place = tmp_path / "tokenizer"
    assert not is_saved(place)
    (place / ".unfinished-0123abcd").mkdir(parents=True)  # as a kill leaves it
    assert not is_saved(place)
    config, params = load.read(weights)
    load.write(place, config, params)
    assert is_saved(place) and load.read(place)[0].model.to_dict() == config.model.to_dict()
