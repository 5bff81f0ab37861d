"""Networks that others trained, which losses and measures look through; they are not trained."""
