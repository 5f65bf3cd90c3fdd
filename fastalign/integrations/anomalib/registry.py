"""Making anomalib find the model by name."""

from __future__ import annotations

import anomalib.models

from fastalign.integrations.anomalib.module import Fyd

_PACKAGE = __package__


def register() -> type[Fyd]:
    """Let every route of anomalib that names a model reach ``Fyd``; may be called again.

    Afterwards ``get_model`` takes ``"fyd"``, ``{"class_path": "Fyd"}``, ``"anomalib.models.Fyd"``
    and ``"fastalign.integrations.anomalib.Fyd"``. Its benchmark pipeline takes the same class
    paths. Both refuse classes outside ``anomalib.models.ALLOWED_MODULES``, which gets this package
    added; nothing else becomes importable. Engine and command line (with the dotted path) work
    without this call.

    Returns:
        the class.
    """
    anomalib.models.Fyd = Fyd
    anomalib.models.ALLOWED_MODULES.add(_PACKAGE)
    return Fyd
