"""What the extra ``fastalign[ray]`` installs, looked for before it is needed."""

from __future__ import annotations

import importlib

from fastalign.errors import BackendError, extra


def require() -> None:
    """Make sure that Ray Data and pyarrow can be imported.

    Raises:
        BackendError: one of them cannot.
    """
    for name in ("pyarrow.parquet", "ray.data"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise BackendError(
                f"the ray engine needs Ray Data and pyarrow, and {name} cannot be imported "
                f"({error}); install them with: {extra('ray')}"
            ) from error
