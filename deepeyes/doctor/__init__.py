"""The preflight: what would stop a run, and the command that mends it."""
