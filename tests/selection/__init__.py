"""Tests of the choice of rows."""
