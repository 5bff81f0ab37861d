"""A language model that answers questions about images, and draws them, on a tokenizer's codes."""
