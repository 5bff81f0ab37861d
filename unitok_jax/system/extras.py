"""Install instructions for optional dependencies."""


def how_to_install(extra: str) -> str:
    """Returns the command that installs an extra of this package, from a checkout.

    extra: a key of `[project.optional-dependencies]` in pyproject.toml.
    """
    return f"in a checkout of unitok_jax: pip install -e '.[{extra}]'"
