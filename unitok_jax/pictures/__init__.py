"""Pictures for viewing: NumPy arrays and Pillow images in and out, no files and no JAX."""
