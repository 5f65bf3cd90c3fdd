"""Scoring collections of images on many processes and machines with Ray Data.

Needs the extra ``fastalign[ray]``. The guide is docs/bulk-scoring.md.
"""

from fastalign.integrations.ray.run import BulkScores, score_collection

__all__ = ["BulkScores", "score_collection"]
