"""Checks that take minutes and depend on few files alone: what they found is kept with a digest of
these files in ``tests/records``, and the suite reads it there. ``make records`` checks again
whatever has changed since."""
