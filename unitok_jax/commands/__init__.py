"""The commands of `unitok`: a module each, whose `main` is the command."""
