"""Measures of a tokenizer: each is a pair of `update` and `result`, or one function of arrays."""
