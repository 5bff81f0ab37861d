"""Image-text data on the host: NumPy only, no models, no device arrays."""
