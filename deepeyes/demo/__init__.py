"""The demo: a tiny Qwen2.5-VL learns by GRPO to zoom, on the CPU, through the real `swift rlhf` and the plugin.

`cli` reads the command line, `plan` says what is done, `pipeline` does it stage by stage and `verdict` judges it. The
question is in `task`, the supervised beginning in `warmup`, the measure in `measure`. `stages` runs each stage in a
process of its own, `cache` keeps what it made, and `progress` shows how far it is.
"""
