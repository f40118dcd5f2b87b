"""Tests of what reads and writes rows."""
