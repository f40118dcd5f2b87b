"""The choice of rows: a policy plays them, and those are kept that it can learn from."""
