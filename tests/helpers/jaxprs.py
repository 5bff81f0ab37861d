"""Equations of a traced program."""


def equations(jaxpr):
    """All equations of a jaxpr, and of the jaxprs within: bodies of loops, branches, calls."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, list | tuple) else [value]:
                if hasattr(getattr(inner, "jaxpr", inner), "eqns"):
                    yield from equations(inner)


def products(jaxpr):
    """The shapes of both operands of each product of matrices."""
    found = (e for e in equations(jaxpr) if e.primitive.name == "dot_general")
    return [tuple(variable.aval.shape for variable in equation.invars) for equation in found]
