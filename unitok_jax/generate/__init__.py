"""An autoregressive generator of images on a tokenizer's codes."""
