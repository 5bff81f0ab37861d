"""How to install what not everyone needs."""


def how_to_install(extra: str) -> str:
    """The command that installs an extra of this package: it is installed from a checkout.

    extra: a key of `[project.optional-dependencies]` in pyproject.toml.
    """
    return f"in a checkout of unitok_jax: pip install -e '.[{extra}]'"
