"""Commands of `unitok`: one module each, whose `main` is the command."""
