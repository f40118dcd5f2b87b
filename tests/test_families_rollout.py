"""A real `swift rollout` on vLLM for families beside Qwen2.5-VL: random weights, whose words a grammar narrows down."""

from __future__ import annotations

import io
import json
import re
import urllib.request
from collections import Counter
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from servers import ROOT, free_port, serving
from swift.infer_engine import RequestConfig
from swift.infer_engine.protocol import RolloutOutput
from swift.model import get_processor
from swift.rl_core.data import OnPolicySample
from swift.rlhf_trainers.utils import encode_sample
from swift.template import get_template
from swift_fakes import jpeg
from tiny_families import BOX, FAMILIES, row_of, turns_of, write_checkpoint

from deepeyes.images.encoding import image_bytes
from deepeyes.images.processor import ImageProcessor
from deepeyes.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.lengthy, pytest.mark.timeout(2400)]

PICTURE = jpeg(480, 384)
TRAJECTORIES = 16
DTYPES = {"Qwen3-VL": "float32", "Qwen3.5": "bfloat16"}  # vLLM's gated delta net on a CPU takes nothing else


@pytest.fixture(scope="module", params=DTYPES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def checkpoint(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("family"), FAMILIES[name], weights=True)


@pytest.fixture(scope="module")
def template(name: str, checkpoint: Path) -> Any:
    """What the trainer encodes with."""
    family = FAMILIES[name]
    template = get_template(get_processor(str(checkpoint), model_type=family.model_type), template_type=family.template)
    template.max_length = None
    template.set_mode("train")
    return template


@pytest.fixture(scope="module")
def outputs(name: str, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[RolloutOutput]:
    """What `deepeyes.sh rollout` gives a trainer for trajectories of one row."""
    family, port = FAMILIES[name], free_port()
    words = ["bash", ROOT / "deepeyes.sh", "rollout", "--model_type", family.model_type, "--template", family.template]
    # vLLM 0.23 on a CPU dies where it splits a prompt; and it would try out the largest picture, for minutes.
    engine = {"enable_chunked_prefill": False, "skip_mm_profiling": True}
    words += ["--torch_dtype", DTYPES[name], "--vllm_engine_kwargs", json.dumps(engine)]
    settings = {"LAYOUT": "cpu", "MODEL": checkpoint, "MAX_MODEL_LEN": 4096, "MAX_TURNS": 3, "ROLLOUT_PORT": port}
    url, log = f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("rollout") / "log"
    samples = [OnPolicySample.from_row({**row_of(PICTURE), "request_id": str(n)}) for n in range(TRAJECTORIES)]
    requests = [asdict(sample.to_infer_request(include_extra=True)) for sample in samples]
    config = RequestConfig(max_tokens=200, temperature=1.0, logprobs=True, return_details=True)
    config.structured_outputs_regex = "|".join(f"({re.escape(turn)})" for turn in turns_of(name))
    body = json.dumps({"infer_requests": requests, "request_config": asdict(config)}).encode()
    with serving(words, url=f"{url}/health/", log=log, **settings):
        ask = urllib.request.Request(f"{url}/infer/", body, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(ask, timeout=900) as answer:  # noqa: S310 - our own server
            return [RolloutOutput.model_validate(output) for output in json.load(answer)]


class TestServer:
    def test_policy_zooms_and_then_answers(self, name: str, outputs: list[RolloutOutput]) -> None:
        zoom, answer = turns_of(name)
        played = Counter(
            tuple(
                next(text for text in (zoom, answer) if turn.endswith(text)) for turn in output.rollout_infos["turns"]
            )
            for output in outputs
        )
        assert len(outputs) == TRAJECTORIES
        assert set(played) <= {(answer,), (zoom, answer), (zoom, zoom, answer), (zoom, zoom, zoom)}
        assert played[zoom, answer]
        for output in outputs:
            infos = output.rollout_infos
            calls = sum(turn.endswith(zoom) for turn in infos["turns"][:2])  # a third has no turn after it
            assert (infos["num_zooms"], infos["num_zoom_errors"]) == (calls, 0)
            assert [one["bbox_2d"] for one in infos["zooms"]] == [list(BOX)] * calls

    def test_crops_are_pieces_of_the_view(self, name: str, template: Any, outputs: list[RolloutOutput]) -> None:
        mode = template.mode
        view = ImageProcessor(template, None, Settings()).view(PICTURE).result().image
        template.set_mode(mode)
        frame = view.size if FAMILIES[name].frame == "pixel" else (1000, 1000)
        scale = [size / whole for size, whole in zip(view.size, frame, strict=True)] * 2
        box = [round(edge * factor) for edge, factor in zip(BOX, scale, strict=True)]
        for output in outputs:
            infos = output.rollout_infos
            assert [one["box"] for one in infos["zooms"]] == [box] * infos["num_zooms"]
            for image in infos["images"][1:]:
                crop = Image.open(io.BytesIO(image_bytes(image)))
                assert crop.tobytes() == view.crop(tuple(box)).tobytes()

    def test_trainer_learns_just_the_sampled_tokens(
        self, name: str, template: Any, outputs: list[RolloutOutput]
    ) -> None:
        end = template.tokenizer.convert_tokens_to_ids(FAMILIES[name].end)
        for output in outputs:
            sample = OnPolicySample.from_row(row_of(PICTURE))
            sample.apply_rollout_output(rollout_output=output)
            encoded = encode_sample(sample, template)
            with_loss = [
                token for token, label in zip(encoded["input_ids"], encoded["labels"], strict=True) if label != -100
            ]
            pairs = zip(output.response_token_ids, output.response_loss_mask, strict=True)
            turns = [[token for token, kept in zip(*pair, strict=True) if kept] for pair in pairs]
            assert with_loss == list(chain.from_iterable(turns))
            assert [len(turn) for turn in turns] == [len(turn) for turn in sample.rollout_logprobs]
            assert [turn[-1] for turn in turns] == [end] * len(turns)
            for turn, text in zip(turns, output.rollout_infos["turns"], strict=True):
                assert text.endswith(template.tokenizer.decode(turn[:-1]))
            assert len(encoded["image_grid_thw"]) == len(sample.images) == 1 + output.rollout_infos["num_zooms"]
