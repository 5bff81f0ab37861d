"""Formulations that are timed side by side compute the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import convolutions

SHAPES = {
    "depthwise": [(2, 6, 8, 1), (2, 6, 8, 2)],
    "upsample": [(2, 4, 8, 6)],
    "rgb": [(2, 8, 3, 16, 3, 2), (2, 8, 16, 3, 3, 1), (2, 8, 3, 16, 3, 1), (2, 28, 3, 8, 14, 14)],
}
CASES = [(operation, shape) for operation, shapes in SHAPES.items() for shape in shapes]


@pytest.mark.parametrize("operation, shape", CASES)
def test_values_and_gradients_of_all_forms_agree(operation, shape):
    inputs = [jnp.asarray(a) for a in convolutions.arrays(operation, shape)]
    found = {}
    for name in convolutions.FORMULATIONS[operation]:
        function = convolutions.jax_operation(operation, name, shape)
        value, pull = jax.vjp(function, *inputs)
        found[name] = value, *pull(jnp.sin(value))
    first = next(iter(found.values()))
    for name, arrays in found.items():
        for ours, theirs in zip(arrays, first, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4, err_msg=name)


def test_every_case_has_its_forms():
    for machine, cases in convolutions.CASES.items():
        for operation, _, shape in cases:
            assert len(shape) == len(SHAPES.get(operation, [shape])[0]), (machine, operation)
    for operation, names in convolutions.GPU_FORMS.items():
        assert convolutions.FORMULATIONS[operation].keys() >= set(names)


def test_a_table_of_an_operation_without_cases_is_refused(monkeypatch, capsys):
    arguments = ["convolutions", "--machine", "gpu", "--operations", "gelu"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit):
        convolutions.main()
    assert "gpu has cases of upsample, rgb, depthwise" in capsys.readouterr().err
