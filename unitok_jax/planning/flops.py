"""Operations of a traced function: matrix products, convolutions, choices of the top k."""

import math

import jax


def count(function, *args, platform: str | None = None) -> float:
    """Counts the operations of function(*args), as executed: 2 per multiply-add, 1 per comparison.

    Scans count every iteration and recomputation counts again, which XLA's own analysis does not
    tell. Of two branches the larger counts, and of the forms for several platforms that for
    `platform` ('cpu', 'cuda', 'tpu'), if it is given; cuDNN's attention counts as the plain one.
    A top k compares every element once, which is the least of its work. Elementwise work is not
    counted.
    """
    return of_jaxpr(jax.make_jaxpr(function)(*args).jaxpr, platform)


def of_jaxpr(jaxpr, platform: str | None = None) -> float:
    """Counts as `count` does, from a function that is already traced."""
    return sum(_of_equation(equation, platform) for equation in jaxpr.eqns)


def _of_equation(equation, platform):
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracting, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        depth = math.prod(left[axis] for axis in contracting)
        return 2.0 * depth * math.prod(equation.outvars[0].aval.shape)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = params["dimension_numbers"].rhs_spec[0]
        window = math.prod(kernel) // kernel[outputs]
        # A dilated input is mostly zeros, which a fast algorithm skips.
        dilation = math.prod(params["lhs_dilation"])
        return 2.0 * window * math.prod(equation.outvars[0].aval.shape) / dilation
    if name == "top_k":
        return float(math.prod(equation.invars[0].aval.shape))
    if name == "cond":
        branches = params["branches"]
        if platform and params.get("branches_platforms"):
            names = params["branches_platforms"]  # None: all that stand in no other
            chosen = (b for b, n in zip(branches, names, strict=True) if n is None or platform in n)
            branch = next(chosen).jaxpr
            if not _is_opaque(branch):
                return of_jaxpr(branch, platform)
        return max(of_jaxpr(branch.jaxpr, platform) for branch in branches)
    factor = params["length"] if name == "scan" else 1
    return factor * sum(of_jaxpr(inner, platform) for inner in _inner(params))


def _is_opaque(jaxpr) -> bool:
    """Returns True if cuDNN computes attention in a function: a call of which nothing is told."""
    return any(
        equation.primitive.name.startswith("dot_product_attention")
        or any(map(_is_opaque, _inner(equation.params)))
        for equation in jaxpr.eqns
    )


def _inner(params):
    for value in params.values():
        if hasattr(value, "eqns"):
            yield value
        elif hasattr(value, "jaxpr") and hasattr(value.jaxpr, "eqns"):
            yield value.jaxpr
