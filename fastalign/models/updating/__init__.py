"""More good photographs for a fitted density: taken in by what is stored of it. Ours.

Network, adapters, template, channels or directions, prior and shrinkage stay those of the fit.
Photographs are aligned to the stored template, their features joined with the Gaussians
(:mod:`fastalign.nn.extended`), and the thresholds derived anew by the rule of the fit: a quantile
of scores of normal images by a density that has not seen them. Those of the fit are stored, and a
little high now, since a density with more images puts normal ones nearer; each new one is scored
without itself and its twins.

``choice`` says which photographs are taken in, ``joining`` makes the density with them, ``record``
what is known then, and ``course`` puts all of it into the rooms of a model.
"""

from fastalign.models.updating.choice import Choice, choose
from fastalign.models.updating.course import update_rooms

__all__ = ["Choice", "choose", "update_rooms"]
