"""The published files: their names, sizes and hashes, and the one schema of their rows."""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa

HUBS = {"modelscope": "Lixiang/ChenShawn-DeepEyes-Datasets-47k", "huggingface": "ChenShawn/DeepEyes-Datasets-47k"}


class Official(NamedTuple):
    """One file of the published snapshot."""

    name: str
    rows: int
    size: int
    sha256: str


OFFICIAL = {
    file.name: file
    for file in (
        Official(
            "data_0.1.2_visual_toolbox_v2.parquet",
            22_362,
            990_263_397,
            "42992bf5de25e8d766f820fb9730ece275563ba80dd41e3377bf678c9ba2c2c1",
        ),
        Official(
            "data_v0.8_visual_toolbox_v2.parquet",
            13_659,
            2_198_504_506,
            "96fc256e6f73e098c1b586f1c37baad616ecbddf1105bfca71aa07a5dda7da5a",
        ),
        Official(
            "data_thinklite_reasoning_acc.parquet",
            11_031,
            1_656_152_904,
            "660cea5ff8f74d19f993b575f30b6f5406b6c330dd8f9aacc6be59e299238967",
        ),
    )
}
HOLDOUT_NAME = "holdout.parquet"
"""Rows that are kept for evaluation."""

TEXT = pa.string()
SCHEMA = pa.schema(
    {
        "data_source": TEXT,
        "prompt": pa.list_(pa.struct({"content": TEXT, "role": TEXT})),
        "images": pa.list_(pa.struct({"bytes": pa.binary(), "path": TEXT})),
        "ability": TEXT,
        "env_name": TEXT,
        "reward_model": pa.struct({"ground_truth": TEXT, "style": TEXT}),
        "extra_info": pa.struct({"answer": TEXT, "index": TEXT, "question": TEXT, "split": TEXT}),
    }
)
REQUIRED_COLUMNS = ("data_source", "images", "reward_model", "extra_info")
