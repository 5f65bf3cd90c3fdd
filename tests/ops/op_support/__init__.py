"""What the tests of the ops share: definitions as loops, inputs, layouts, tolerances, backends.

A new backend adds its name in ``backends.py`` and is then checked by every test that asks for the
fixture ``backend``. Nothing here depends on a particular backend.
"""
