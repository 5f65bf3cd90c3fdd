"""Photographs are judged over HTTP, and a page shows the last ones; needs ``fastalign[serve]``."""
