"""Tests of the data check."""
