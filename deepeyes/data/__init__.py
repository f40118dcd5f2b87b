"""The data check: rows in the official schema, read, checked, mended and written."""
