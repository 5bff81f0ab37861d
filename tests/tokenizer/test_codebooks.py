"""What `config.codebook` says and does to a run."""

import pytest

from configs import tiny_full
from unitok_jax.tokenizer.config_checks import check

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"codebook.gradient": "rotated"},
            r"codebook\.gradient='rotated' is not one of straight_through, rotation",
        ),
        (
            {"codebook.gradient": "rotation", "model.quantizer": "bsq"},
            r"codebook\.gradient=rotation .*model\.quantizer=bsq has no rows; set codebook\.grad",
        ),
    ],
)
def test_bad_values(changes, message):
    config = tiny_full.get_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        check(config)
