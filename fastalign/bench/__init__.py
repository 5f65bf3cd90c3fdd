"""``fastalign bench``: ops and models beside what people use today, each behind a correctness gate.

Ops: :mod:`cases` says what is measured and :mod:`works` what a contestant computes,
:mod:`measure` takes the times. Models: :mod:`models` and :mod:`contestants`. :mod:`run` does a
whole profile, :mod:`compare` says which differences between two runs exceed the noise.
"""
