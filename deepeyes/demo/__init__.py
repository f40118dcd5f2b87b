"""The demo: a tiny model learns to zoom by GRPO, on the CPU."""
