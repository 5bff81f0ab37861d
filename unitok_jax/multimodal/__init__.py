"""One language model that answers questions about images and draws them."""
