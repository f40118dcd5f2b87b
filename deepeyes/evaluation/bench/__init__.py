"""Benchmarks: what is asked, read as it was published."""

from deepeyes.evaluation.bench.items import LETTERS, BadRow, Bench, Box, Item, Kind, categories_of, orders
from deepeyes.evaluation.bench.readers import KNOWN, LAYOUTS, read_bench

__all__ = [
    "KNOWN",
    "LAYOUTS",
    "LETTERS",
    "BadRow",
    "Bench",
    "Box",
    "Item",
    "Kind",
    "categories_of",
    "orders",
    "read_bench",
]
