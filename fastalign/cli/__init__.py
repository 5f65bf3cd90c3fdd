"""The ``fastalign`` command."""

from fastalign.cli.app import app, main

__all__ = ["app", "main"]
