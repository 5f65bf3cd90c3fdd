"""Mutants of the sources, and which tests catch them; the command is ``tools/mutants.py``."""
