"""Evaluation: benchmarks played with the zoom that trained the model."""
