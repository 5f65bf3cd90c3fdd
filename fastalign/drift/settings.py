"""How often drift may be told falsely."""

from __future__ import annotations

INTERVAL = 100_000
"""Photographs between two false statements on average, where nobody says otherwise."""
LEAST_INTERVAL = 100
