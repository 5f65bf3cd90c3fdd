"""Drift of a line: photographs that are no longer taken as those of the fit were. Ours."""
