"""The door of `python -m unitok_jax.evaluate`; the command is `unitok_jax.card`."""

from unitok_jax.card import main

if __name__ == "__main__":
    main()
