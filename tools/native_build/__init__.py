"""How setup.py builds the native library: what the machine offers, and the graph of its steps."""
