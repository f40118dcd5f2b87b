"""Trajectories behind a URL: the turns, the images and the figures are those of training, on the wire."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from eval_world import Script, Seen, answer, call, serving
from PIL import Image
from swift.infer_engine import RequestConfig
from swift_fakes import Engine, jpeg, load_template, request

import deepeyes_plugin as plugin
from deepeyes.calls import ZOOM_ERRORS
from deepeyes.markers import MEDIA_TAG
from deepeyes.playing.endpoint import Access, Endpoint, EndpointError, RefusedError
from deepeyes.playing.families import FAMILIES, family_of
from deepeyes.playing.pictures import Viewer
from deepeyes.playing.player import Played, Player, Start
from deepeyes.playing.wire import call_text, to_openai
from deepeyes.settings import CropSource, Settings

if TYPE_CHECKING:
    from pathlib import Path

QWEN = FAMILIES["qwen2.5-vl"]
ROW = {"data_source": "vstar", "env_name": "visual_toolbox_v2", "extra_info": {"question": "What colour is it?"}}


def play(script: Script, *, image: Any = None, settings: Settings | None = None, **changes: Any) -> Played:
    """Plays one trajectory with the messages of `swift_fakes.request`."""
    settings = settings or Settings()
    row = {**ROW, **changes.pop("row", {})}

    async def run(url: str) -> Played:
        endpoint = Endpoint(Access(url, retries=0), "m")
        viewer = Viewer(QWEN, settings, changes.pop("max_pixels", 602112))
        player = Player(endpoint, viewer, settings, changes.pop("max_turns", 6), **changes)
        picture = await viewer.look(image or jpeg(420, 336))
        try:
            return await player.play(Start(request(None).messages, row, [picture], {"max_tokens": 64}))
        finally:
            await endpoint.close()

    with serving(script):
        return asyncio.run(run(script.url))


def scripted(*turns: Any) -> Script:
    return Script(lambda seen: turns[min(seen.turn, len(turns)) - 1])


@pytest.fixture(scope="session")
def template(tiny_model: Path) -> Any:
    return load_template(tiny_model)


def as_swift_takes_them(seen: Seen) -> list[dict[str, str]]:
    """The messages of a request, with `<image>` where an image stands."""

    def text(content: Any) -> str:
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        return "".join(part.get("text", "<image>") for part in parts)

    return [{"role": message["role"], "content": text(message["content"])} for message in seen.body["messages"]]


class TestSameAsInTraining:
    """The scheduler of the plugin and the player, over the same picture with the same script."""

    SCRIPTS: tuple[tuple[str, ...], ...] = (
        ("<think>plain</think><answer>red</answer>",),
        (call([28, 28, 140, 112]), call([0, 0, 60, 60]), answer("red")),
        (call([5, 5, 9, 9]), call([900, 9, 999, 99]), "<tool_call>{oops</tool_call>", answer("red")),
        ("<image> <|image_pad|> " + call([28, 28, 140, 112]), "<answer>red <image></answer>"),
        (call([0, 0, 420, 336]),),  # until the turns are used up
        ("\ud800" + call([1, 1, 99, 99]), answer("\ud800")),
    )

    @pytest.mark.parametrize("turns", SCRIPTS)
    def test_turns_tokens_images_and_infos_are_equal(
        self, turns: tuple[str, ...], template: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(plugin, "SETTINGS", Settings())
        trained = self.train(turns, template)
        script = scripted(*turns)
        played = play(script)
        assert played.turns == trained.infos["turns"]
        assert {name: trained.infos[name] for name in played.infos} == played.infos
        last = script.seen[-1]
        assert [image.tobytes() for image in last.images] == [image.tobytes() for image in trained.seen]
        if not MEDIA_TAG.search(turns[0]):  # swift shows the very tokens again, and a text has to be made inert
            again = template.encode({"messages": as_swift_takes_them(last), "images": last.images})
            assert again["input_ids"] == trained.prompts[-1]["input_ids"]

    @staticmethod
    def train(turns: tuple[str, ...], template: Any) -> Any:
        class Trained:
            infos: dict[str, Any]
            prompts: list[dict[str, Any]]
            seen: list[Image.Image]

        engine = Engine(turns, template)
        scheduler = plugin.DeepEyesScheduler(infer_engine=engine, max_turns=6)
        asked = request(jpeg(420, 336))
        output = asyncio.run(scheduler.run(asked, RequestConfig()))
        trained = Trained()
        trained.infos, trained.prompts = output.rollout_infos, engine.prompts
        uris = [uri.partition("base64,")[2] or uri for uri in output.rollout_infos["images"]]
        images = [Image.open(io.BytesIO(base64.b64decode(uri))).convert("RGB") for uri in uris]
        trained.seen = [images[0].resize(tuple(trained.infos["view_size"])), *images[1:]]
        if len(engine.prompts) == len(output.rollout_infos["zooms"]):  # the last zoom was shown to nobody
            trained.seen.pop()
        return trained


class TestPlayer:
    def test_blank_crops_are_grey_and_of_the_same_size(self) -> None:
        script = scripted(call([28, 28, 140, 112]), answer("red"))
        played = play(script, blank_crops=True)
        assert script.seen[-1].images[1].size == (112, 84)
        assert script.seen[-1].images[1].getcolors() == [(112 * 84, (128, 128, 128))]
        assert played.infos["num_zooms"] == 1

    def test_row_without_a_tool_ends_with_its_first_turn(self) -> None:
        script = scripted(call([28, 28, 140, 112]), answer("red"))
        assert len(play(script, row={"env_name": ""}).turns) == len(script.seen) == 1

    def test_refusal_of_the_first_turn_is_raised_and_a_later_one_ends_the_trajectory(self) -> None:
        refusal = (400, {"error": {"message": "at most 1 image may be given"}})
        with pytest.raises(RefusedError, match=r"status 400.*at most 1 image"):
            play(scripted(refusal))
        played = play(scripted(call([28, 28, 140, 112]), refusal))
        assert (played.turns[-1], played.finish_reason) == ("", "refused")
        assert "at most 1 image" in str(played.refusal)
        assert played.infos["num_zooms"] == 1

    def test_cut_turn_is_the_last(self) -> None:
        def cut(seen: Seen) -> Any:
            del seen
            choice = {"index": 0, "finish_reason": "length", "message": {"content": call([1, 1, 99, 99])}}
            return 200, {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}

        played = play(Script(cut))
        assert (len(played.turns), played.finish_reason, played.prompt_tokens) == (1, "length", 0)

    def test_native_call_and_thoughts_are_played_like_written_ones(self) -> None:
        arguments = json.dumps({"bbox_2d": [28, 28, 140, 112]})
        function = {"id": "c", "type": "function", "function": {"name": "image_zoom_in_tool", "arguments": arguments}}

        def native(seen: Seen) -> Any:
            if seen.turn > 1:
                return answer("red")
            message = {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [function]}
            choice = {"index": 0, "finish_reason": "tool_calls", "message": message}
            return 200, {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}

        script = Script(native)
        played = play(script)
        assert played.native
        assert played.infos["num_zooms"] == 1
        assert played.turns[0] == (
            "<think>hm</think><tool_call>\n"
            '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [28, 28, 140, 112]}}\n</tool_call>'
        )
        assert script.seen[-1].texts[2] == played.turns[0]

    def test_native_call_that_is_written_as_well_stands_once(self) -> None:
        written = call([28, 28, 140, 112])
        function = {"name": "image_zoom_in_tool", "arguments": '{"bbox_2d": [28, 28, 140, 112]}'}

        def both(seen: Seen) -> Any:
            if seen.turn > 1:
                return answer("red")
            calls = [{"id": "c", "type": "function", "function": function}]
            message = {"role": "assistant", "content": written, "tool_calls": calls}
            choice = {"index": 0, "finish_reason": "tool_calls", "message": message}
            return 200, {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}

        played = play(Script(both))
        assert (played.turns[0], played.native, played.infos["num_zooms"]) == (written, False, 1)

    def test_native_call_that_is_no_json_gets_an_error_from_the_tool(self) -> None:
        assert call_text("", [("image_zoom_in_tool", "left")]) == "<tool_call>\nleft\n</tool_call>"
        script = scripted(call_text("", [("image_zoom_in_tool", "left")]), answer("red"))
        assert play(script).observations == [ZOOM_ERRORS["bad_json"]]

    def test_original_is_cropped_in_full_resolution_where_asked(self) -> None:
        image = Image.effect_noise((1200, 900), 90).convert("RGB")
        script = scripted(call([28, 56, 140, 112]), answer("red"))
        settings = replace(Settings(), crop_source=CropSource.ORIGINAL)
        play(script, image=image, settings=settings, max_pixels=448 * 336)
        view, crop = script.seen[-1].images
        assert view.width * view.height < 448 * 336 < 1200 * 900
        x, y = 1200 / view.width, 900 / view.height
        part = image.crop((int(28 * x), int(56 * y), -int(-140 * x // 1), -int(-112 * y // 1)))
        assert crop.tobytes() == part.resize(crop.size).tobytes()
        assert crop.width * crop.height > 2 * 112 * 56


class TestWire:
    def test_images_stand_where_their_tags_do_and_missing_ones_leave_no_trace(self) -> None:
        turns = to_openai(
            [
                {"role": "system", "content": "an <image> of words"},
                {"role": "user", "content": "<image>a<image>b"},
                {"role": "user", "content": "<image>"},
            ],
            ["one", "two"],
        )
        kinds = [part["type"] for part in turns[1]["content"]]
        assert kinds == ["image_url", "text", "image_url", "text"]
        assert (turns[0]["content"], turns[2]["content"]) == ("an <image> of words", "")
        assert to_openai([{"role": "user", "content": "<image>\nWhat?"}], [])[0]["content"] == "\nWhat?"


class TestEndpoint:
    def test_key_is_in_no_message(self) -> None:
        endpoint = Endpoint(Access("http://127.0.0.1:9/v1", api_key="secret-key", retries=0))
        assert "secret-key" not in repr(endpoint)
        with pytest.raises(EndpointError, match=r"http://127\.0\.0\.1:9/v1/models failed after 3 retries") as caught:
            asyncio.run(endpoint.find_model())
        assert "secret-key" not in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "family"),
        [
            ("Qwen2.5-VL-7B", "qwen2.5-vl"),
            ("qwen3-vl-8b", "qwen3-vl"),
            ("org/Qwen-3-VL", "qwen3-vl"),
            ("x", "qwen2.5-vl"),
        ],
    )
    def test_family_is_guessed_by_the_name(self, name: str, family: str) -> None:
        assert family_of(name).name == family
