"""Rows on disk: read, checked and written. No program; the data check, the doctor and others stand on it."""
