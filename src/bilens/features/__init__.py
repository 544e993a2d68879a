"""What an analysis found, as one record that the run's folder, the summary, the figures and the page all read."""

from bilens.features.build import STORED, detail, singular, stored, table
from bilens.features.records import Chart, CodeComparison, Detail, Explanation, FeatureSet, Samples
from bilens.features.trees import PERCENTILES, OutputTree, TreeSet

__all__ = [
    "PERCENTILES",
    "STORED",
    "Chart",
    "CodeComparison",
    "Detail",
    "Explanation",
    "FeatureSet",
    "OutputTree",
    "Samples",
    "TreeSet",
    "detail",
    "singular",
    "stored",
    "table",
]
