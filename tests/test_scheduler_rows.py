"""Rows out of the ordinary through swift's own loops, and what a request weighs.

Several pictures, none, no columns, thoughts that the template begins, prompts beyond the model's length.
"""

from __future__ import annotations

import asyncio
import base64
import io
import pickle
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from PIL import Image
from scheduler_lab import Lab, decoded, users
from swift.infer_engine import RequestConfig
from swift_fakes import call, jpeg, load_template, request

import deepeyes_plugin as plugin
from deepeyes.calls import ZOOM_ERRORS
from deepeyes.family import MediaTokens, frame_of, media_tokens, response_prefix, token_side
from deepeyes.lengths import LEFT_OUT, ForgivingEngine, engine_length, is_too_long, prompt_length
from deepeyes.rows import has_tool
from deepeyes.scoring import score_batch
from deepeyes.settings import Settings
from deepeyes.turns import with_prefix
from deepeyes_plugin import DeepEyesScheduler

if TYPE_CHECKING:
    from pathlib import Path

ANSWER = "<think>clear</think><answer>red</answer>"


@pytest.fixture(scope="module")
def template(tiny_model: Path) -> Any:
    return load_template(tiny_model)


@pytest.fixture(params=["server", "trainer"])
def lab(template: Any, request: pytest.FixtureRequest) -> Lab:
    return Lab(template, request.param)


def zoom(**arguments: Any) -> str:
    """A turn that zooms into the box 28, 28, 128, 128, with more arguments."""
    extra = "".join(f', "{name}": {value}' for name, value in arguments.items())
    return call(28, 28, 128, 128).replace("128]", f"128]{extra}")


class TestSeveralImages:
    @pytest.fixture
    @staticmethod
    def two() -> Any:
        two = request(jpeg(420, 336))
        two.images.append(jpeg(280, 196, seed=5))
        two.messages[1]["content"] = "<image>" + two.messages[1]["content"]
        return two

    @pytest.mark.parametrize(
        ("arguments", "image"), [({}, 0), ({"img_idx": 0}, 0), ({"img_idx": 1}, 1), ({"target_image": 2}, 1)]
    )
    def test_crop_is_from_the_image_that_the_call_names(
        self, lab: Lab, two: Any, arguments: dict[str, int], image: int
    ) -> None:
        (output,) = lab.run([two], [zoom(**arguments), ANSWER])
        infos = output.rollout_infos
        assert [one["image"] for one in infos["zooms"]] == [image]
        assert infos["view_sizes"] == [[420, 336], [280, 196]]
        view = lab.engine.prompts[0]["images"][image]
        assert decoded(infos["images"][2]).tobytes() == view.crop((28, 28, 128, 128)).tobytes()

    @pytest.mark.parametrize("arguments", [{"img_idx": 2}, {"target_image": 0}, {"target_image": 3}])
    def test_image_that_is_not_there_is_an_error_for_the_model(
        self, lab: Lab, two: Any, arguments: dict[str, int]
    ) -> None:
        (output,) = lab.run([two], [zoom(**arguments), ANSWER])
        assert users(output)[1:] == [ZOOM_ERRORS["no_such_image"]]
        assert (output.rollout_infos["num_zooms"], output.rollout_infos["num_zoom_errors"]) == (0, 1)

    def test_crop_is_no_image_to_zoom_into(self, lab: Lab) -> None:
        (output,) = lab.run([request(jpeg(420, 336))], [zoom(), zoom(img_idx=1), ANSWER])
        assert users(output)[2] == ZOOM_ERRORS["no_such_image"]


class TestNoImages:
    @pytest.mark.parametrize("images", [None, []])
    def test_row_without_images_is_played_and_told(self, lab: Lab, images: Any) -> None:
        bare = request(None)
        bare.messages[1]["content"] = "What colour?"
        bare.images = images
        (output,) = lab.run([bare], [zoom(), ANSWER])
        assert users(output)[1] == ZOOM_ERRORS["bad_image"]
        assert output.rollout_infos["images"] == []


class TestColumns:
    @pytest.mark.parametrize(("told", "turns"), [("You may call image_zoom_in_tool.", 2), ("Answer in a box.", 1)])
    def test_without_columns_the_prompt_tells_whether_there_is_a_tool(
        self, lab: Lab, log: pytest.LogCaptureFixture, told: str, turns: int
    ) -> None:
        bare = [request(jpeg(420, 336)) for _ in range(2)]
        for one in bare:
            one.data_dict = {}
            one.messages = [{"role": "system", "content": told}, {"role": "user", "content": "<image>Colour?"}]
        outputs = lab.run(bare, [zoom(), ANSWER])
        assert [output.rollout_infos["num_turns"] for output in outputs] == [turns] * 2
        said = [record.getMessage() for record in log.records if "without the columns" in record.getMessage()]
        assert len(said) == 1
        assert "--vllm_server_pass_dataset true" in said[0]

    def test_columns_go_before_the_prompt(self) -> None:
        assert has_tool({"data_source": "vstar"}, Settings(), "no tool named")
        assert not has_tool({"data_source": "thinklite_eureka"}, Settings(), "image_zoom_in_tool")


class TestThinking:
    """Qwen3.5 and its like: the template begins the thought, and an engine gives that back or leaves it out."""

    @pytest.fixture
    @staticmethod
    def thinking(template: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.setattr(template, "response_prefix", "<think>\n")
        return template

    @pytest.mark.parametrize("way", ["server", "trainer"])
    @pytest.mark.parametrize("prefix", ["", "<think>\n"])
    def test_turn_is_well_formed_wherever_the_prefix_is_left_out(self, thinking: Any, way: str, prefix: str) -> None:
        turns = [prefix + turn.removeprefix("<think>") for turn in (zoom(), ANSWER)]
        (output,) = Lab(thinking, way).run([request(jpeg(420, 336))], turns)
        infos = output.rollout_infos
        assert [turn.count("<think>") for turn in infos["turns"]] == [1, 1]
        columns = {
            "data_source": ["vstar"],
            "reward_model": [{"ground_truth": "red"}],
            "extra_info": [{"question": "What colour is it?"}],
            "messages": [output.messages],
            "rollout_infos": [infos],
        }
        (scored,) = score_batch([turns[-1]], columns, Settings(), SimpleNamespace(verdicts=lambda _: []))  # type: ignore[arg-type]
        assert scored.score.total == pytest.approx(2.0)

    def test_thought_that_nobody_began_costs_the_format(self, lab: Lab) -> None:
        turns = [turn.removeprefix("<think>") for turn in (zoom(), ANSWER)]
        (output,) = lab.run([request(jpeg(420, 336))], turns)
        assert [turn.count("<think>") for turn in output.rollout_infos["turns"]] == [0, 0]

    def test_prefix_is_masked_and_sampled_tokens_are_not(self, thinking: Any) -> None:
        (output,) = Lab(thinking, "server").run([request(jpeg(420, 336))], [zoom(), ANSWER])
        prefix = thinking.tokenizer.encode("<think>\n")
        for ids, mask in zip(output.response_token_ids, output.response_loss_mask, strict=True):
            assert ids[: len(prefix)] == prefix
            assert mask == [0] * len(prefix) + [1] * (len(ids) - len(prefix))

    @pytest.mark.parametrize(
        ("turn", "prefix", "expected"),
        [
            ("a</think>b", "<think>\n", "<think>\na</think>b"),
            ("<think>\na</think>b", "<think>\n", "<think>\na</think>b"),
            ("<think>a</think>b", "<think>\n", "<think>a</think>b"),
            ("b", "<think>\n\n</think>\n\n", "<think>\n\n</think>\n\nb"),
            ("b", "", "b"),
        ],
    )
    def test_prefix_stands_once(self, turn: str, prefix: str, expected: str) -> None:
        assert with_prefix(turn, prefix) == expected

    def test_prefix_is_what_the_request_asks_for(self) -> None:
        asked = SimpleNamespace(
            _get_response_prefix=lambda inputs: "<think>" if inputs.chat_template_kwargs.get("enable_thinking") else ""
        )
        assert response_prefix(asked, {"enable_thinking": True}) == "<think>"
        assert response_prefix(asked) == response_prefix(None) == ""


class TestLength:
    def test_prompt_beyond_the_model_ends_its_trajectory_and_no_other(
        self, template: Any, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lab = Lab(template, "server")
        scheduler = lab.scheduler([zoom(), ANSWER])
        answer = lab.engine.infer_async

        async def limited(one: Any, config: Any, **kwargs: Any) -> Any:
            if len(one.messages) > 3 and "long" in one.messages[1]["content"]:
                raise ValueError("The decoder prompt (length 9000) is longer than the maximum model length of 8192.")
            return await answer(one, config, **kwargs)

        monkeypatch.setattr(lab.engine, "infer_async", limited)
        requests = [request(jpeg(420, 336), question=question) for question in ("A long one?", "A short one?")]

        async def serve() -> list[Any]:
            return await asyncio.gather(*[scheduler.run(one, RequestConfig()) for one in requests])

        cut, whole = asyncio.run(serve())
        assert whole.rollout_infos["turns"] == [zoom(), ANSWER]
        assert cut.rollout_infos["turns"] == [zoom(), ""]
        assert [sum(mask) for mask in cut.response_loss_mask] == [len(cut.response_token_ids[0]), 0]
        assert [len(ids) for ids in cut.response_token_ids][1] == 1
        assert "vstar row 17: ends here" in log.text
        assert "MAX_MODEL_LEN" in log.text

    def test_first_prompt_beyond_the_model_gives_one_token_that_a_trainer_can_take(
        self, template: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lab = Lab(template, "server")
        scheduler = lab.scheduler([ANSWER])

        async def refuse(*_args: Any, **_kwargs: Any) -> Any:
            raise ValueError("Input length (9) leaves no room for generation with max_model_len (8)")

        monkeypatch.setattr(lab.engine, "infer_async", refuse)
        output = asyncio.run(scheduler.run(request(jpeg(420, 336)), RequestConfig()))
        assert output.rollout_infos["turns"] == [""]
        assert output.response_loss_mask == [[1]]  # of its whole group, so that no advantage moves it
        assert output.rollout_infos["images"] == []
        assert output.messages == [{"role": "user", "content": LEFT_OUT}, {"role": "assistant", "content": ""}]

    def test_other_errors_of_the_engine_end_the_run(self, template: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        lab = Lab(template, "server")
        scheduler = lab.scheduler([ANSWER])

        async def die(*_args: Any, **_kwargs: Any) -> Any:
            raise ValueError("the engine is gone")

        monkeypatch.setattr(lab.engine, "infer_async", die)
        with pytest.raises(ValueError, match="gone"):
            asyncio.run(scheduler.run(request(jpeg(420, 336)), RequestConfig()))

    def test_trainer_ends_before_the_prompt_that_its_engine_would_die_of(
        self, template: Any, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(plugin.lengths, "engine_length", lambda: 620)
        (output,) = Lab(template, "trainer").run([request(jpeg(420, 336))], [zoom()])
        turns = output.rollout_infos["num_turns"]
        assert 1 < turns < 6
        assert len(output.rollout_infos["turns"]) == turns
        assert output.messages[-1]["role"] == "assistant"
        assert f"ends after turn {turns}" in log.text

    def test_estimate_is_an_upper_bound_that_is_near(self, template: Any) -> None:
        lab = Lab(template, "trainer")
        lab.run([request(jpeg(420, 336))], [zoom(), zoom(), ANSWER])
        template.set_mode("transformers")
        asked = request(jpeg(420, 336))
        exact = len(template.encode(asked)["input_ids"])
        template.set_mode("vllm")
        texts = [message["content"] for message in asked.messages]
        estimate = prompt_length(texts, [(420, 336)], template.tokenizer, 28)
        assert exact <= estimate <= exact + 100

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["swift", "rlhf"], None),
            (["swift", "rlhf", "--vllm_max_model_len", "8192", "--max_turns", "6"], 8192),
            (["--vllm_max_model_len=4096"], 4096),
            (["--vllm_max_model_len"], None),
        ],
    )
    def test_length_of_the_engine_is_read_from_the_command_line(
        self, arguments: list[str], expected: int | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert engine_length(arguments) == expected
        monkeypatch.setattr(sys, "argv", arguments)
        assert engine_length() == expected

    def test_engine_is_otherwise_itself(self) -> None:
        engine = ForgivingEngine(SimpleNamespace(tokenizer="t"), lambda _request, _error: None)
        assert engine.tokenizer == "t"
        assert not is_too_long(RuntimeError("longer than the maximum model length"))


class TestWeight:
    """A trainer pickles its requests every turn, to send them to its other processes."""

    @pytest.mark.parametrize("width", [420, 2000])
    def test_request_weighs_as_without_the_plugin(self, template: Any, width: int) -> None:
        requests = [request(jpeg(width, width)) for _ in range(2)]
        before = len(pickle.dumps(requests))
        scheduler = DeepEyesScheduler(max_turns=6, tokenizer=template.tokenizer, template=template)
        template.max_pixels = 602_112
        try:
            asyncio.run(scheduler.on_trajectory_start(requests))
        finally:
            template.max_pixels = None
        assert requests[0]._deepeyes_progress.views  # noqa: SLF001 - our own attribute
        assert len(pickle.dumps(requests)) <= 1.1 * before

    def test_request_that_came_back_from_a_pickle_plays_on(self, template: Any) -> None:
        lab = Lab(template, "trainer")
        scheduler = lab.scheduler([zoom(), ANSWER])
        (one,) = requests = [request(jpeg(420, 336))]
        asyncio.run(scheduler.on_trajectory_start(requests))
        one = pickle.loads(pickle.dumps(one))  # noqa: S301 - our own
        choice = lab.engine.reply(one).choices[0]
        one.messages.append({"role": "assistant", "content": choice.message.content})
        result = scheduler.step(one, choice, 1)
        infos = result["rollout_infos"]
        assert infos["zooms"][0]["box"] == [28, 28, 128, 128]
        assert decoded(infos["images"][1]).size == (100, 100)

    def test_photograph_larger_than_its_view_travels_as_whichever_is_lighter(self, template: Any) -> None:
        noise = io.BytesIO()
        noisy = Image.merge("RGB", [Image.effect_noise((1200, 900), 90) for _ in range(3)])
        noisy.save(noise, "JPEG", quality=5)
        photo = base64.b64encode(noise.getvalue()).decode()
        one = request(photo)
        scheduler = DeepEyesScheduler(max_turns=6, tokenizer=template.tokenizer, template=template)
        template.max_pixels = 400_000
        try:
            asyncio.run(scheduler.on_trajectory_start([one]))
        finally:
            template.max_pixels = None
        assert one.images == [photo]


class TestMedia:
    TOKENS: ClassVar = {
        "<IMG_CONTEXT>": 7,
        "<img>": 8,
        "</img>": 9,
        "<box>": 10,
        "<|image|>": 11,
        "<tool_call>": 12,
    }

    def tokenizer(self) -> Any:
        return SimpleNamespace(
            get_added_vocab=lambda: self.TOKENS,
            convert_tokens_to_ids=lambda token: {**self.TOKENS, "[IMG]": 20}.get(token, 0),
            convert_ids_to_tokens=lambda number: {21: "<patch>"}[number],
            unk_token_id=0,
        )

    def test_tokens_are_those_of_the_template_and_those_named_like_media(self) -> None:
        template = SimpleNamespace(placeholder_tokens=["<IMG_CONTEXT>", "[IMG]", 21, "<missing>"])
        names = media_tokens(template, self.tokenizer()).names
        assert names == {
            7: "<IMG_CONTEXT>",
            8: "<img>",
            9: "</img>",
            11: "<|image|>",
            20: "[IMG]",
            21: "<patch>",
        }

    def test_no_tokenizer_means_none(self) -> None:
        assert media_tokens(None, None) == MediaTokens({})

    @pytest.mark.parametrize("text", ["<IMG_CONTEXT>", "[IMG]", "<image>", "<|image_pad|>", "</img>"])
    def test_text_is_inert(self, text: str) -> None:
        template = SimpleNamespace(placeholder_tokens=["<IMG_CONTEXT>", "[IMG]"])
        assert text not in media_tokens(template, self.tokenizer()).inert(f"a {text} b")

    def test_plain_text_stays(self) -> None:
        text = 'the image [1, 2] <answer>x</answer> <tool_call>{"a": 1}</tool_call>'
        assert media_tokens(None, self.tokenizer()).inert(text) == text


class TestWithoutATemplate:
    """ms-swift 3.7 hands over none."""

    @pytest.mark.parametrize(
        ("model_type", "frame", "side"),
        [
            ("", "pixel", 28),
            ("qwen2_5_vl", "pixel", 28),
            ("mimo_vl", "pixel", 28),
            ("qwen2_vl", "norm1000", 28),
            ("qvq", "norm1000", 28),
            ("qwen3_vl", "norm1000", 32),
        ],
    )
    def test_family_decides(self, model_type: str, frame: str, side: int) -> None:
        assert frame_of(None, model_type, Settings()).value == frame
        assert token_side(None, model_type) == side
