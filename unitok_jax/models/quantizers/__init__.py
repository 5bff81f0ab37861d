"""Quantizers: latents to codes and back, each with the same three methods; see `base`."""
