"""What an analysis found, as one record that the run's folder, the summary, the figures and the page all read."""

from bilens.features.build import STORED, detail, singular, stored, table
from bilens.features.records import Chart, CodeComparison, Detail, Explanation, FeatureSet, Samples

__all__ = [
    "STORED",
    "Chart",
    "CodeComparison",
    "Detail",
    "Explanation",
    "FeatureSet",
    "Samples",
    "detail",
    "singular",
    "stored",
    "table",
]
