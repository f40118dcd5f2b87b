"""The demo: a tiny Qwen2.5-VL learns by GRPO to zoom, on the CPU, through the real `swift rlhf` and the plugin.

`cli` reads the command line, `plan` says what is done, `pipeline` does it stage by stage and `verdict` judges it. The
question is in `task`, the supervised beginning in `warmup`, the measure in `measure`. `stages` and `worker` run swift's
commands, `cache` keeps what they made, `logs` reads what they wrote, `console` and `plot` show it. `plumbing` is the
other form, `demo --dataset`.
"""
