"""From a trained model to recommendations. Nothing here needs RecBole, except to read a training checkpoint."""

from recbole_unisrec.serving.answers import Explanation, Recommendations
from recbole_unisrec.serving.recommender import Recommender, load

__all__ = ["Explanation", "Recommendations", "Recommender", "load"]
