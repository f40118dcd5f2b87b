"""What a request asks is done, or refused in OpenAI's words; what fails says whose fault it is."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from serve_world import Asked, Script, Turn, ask, call, plain_picture, playing, serving, until

from deepeyes.playing.prompts import own_prompt
from deepeyes.settings import TOOL_NAME, Coordinates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PICTURE = plain_picture()
ZOOM = call(100, 100, 200, 200)
PROMPT = own_prompt(Coordinates.PIXEL, tool=True)
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


class World:
    """A scripted model and the server in front of it; `policy` may be changed from test to test."""

    def __init__(self, script: Script, url: str) -> None:
        self.script, self.url = script, url
        self.http = httpx.Client(base_url=url, timeout=30)

    def says(self, *turns: Turn | str) -> None:
        """Sets what the model writes, turn by turn."""
        self.acts(lambda asked: turns[min(asked.turn, len(turns)) - 1])

    def acts(self, policy: Callable[[Asked], Turn | str]) -> None:
        self.script.policy = policy
        self.script.asked.clear()
        self.script.left = 0

    def post(self, **fields: Any) -> httpx.Response:
        return self.http.post("/chat/completions", json={"messages": ask(PICTURE), **fields})

    def choice(self, **fields: Any) -> dict[str, Any]:
        response = self.post(**fields)
        assert response.status_code == 200, response.text
        return response.json()["choices"][0]

    def chunks(self, **fields: Any) -> list[dict[str, Any]]:
        response = self.post(stream=True, **fields)
        assert response.status_code == 200, response.text
        lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
        assert lines.pop() == "[DONE]"
        return [json.loads(line) for line in lines]

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [asked.body for asked in self.script.asked]


@contextlib.contextmanager
def a_world(*words: str, api_key: str | None = None) -> Iterator[World]:
    with playing(Script(lambda _: "")) as script, serving(script.url, *words, api_key=api_key) as url:
        yield World(script, url)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with a_world("--retries", "0", "--max-turns", "3") as made:
        yield made


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


class TestPrompt:
    def test_plain_question_is_put_as_in_training(self, world: World) -> None:
        world.says(ZOOM, "<answer>red</answer>")
        world.choice()
        first, second = world.script.asked
        assert first.texts == [PROMPT.system, f"<image>\nWhich way?{PROMPT.instruction}"]
        assert second.texts[2:] == [ZOOM, f"<tool_response><image>{PROMPT.instruction}</tool_response>"]

    def test_picture_that_follows_the_text_comes_first_as_in_training(self, world: World) -> None:
        world.says("<answer>red</answer>")
        (message,) = ask(PICTURE)
        world.choice(messages=[{"role": "user", "content": message["content"][::-1]}])
        assert world.script.asked[0].texts[1] == f"<image>\nWhich way?{PROMPT.instruction}"
        between = [message["content"][1], message["content"][0], message["content"][1]]
        world.choice(messages=[{"role": "user", "content": between}])
        assert world.script.asked[1].texts[1].startswith("Which way?<image>\nWhich way?")

    def test_own_system_turn_is_kept(self, world: World) -> None:
        world.says("<answer>red</answer>")
        world.choice(messages=[{"role": "developer", "content": "Be brief."}, *ask(PICTURE)])
        assert world.script.asked[0].texts == ["Be brief.", "<image>Which way?"]
        assert world.bodies[0]["messages"][0]["role"] == "system"

    def test_own_tools_are_kept_and_their_calls_go_to_the_client(self, world: World) -> None:
        world.says('<think>x</think><tool_call>{"name": "get_weather", "arguments": {"at": "Ulm"}}</tool_call>')
        choice = world.choice(tools=[WEATHER], tool_choice="auto")
        assert world.bodies[0]["tools"] == [WEATHER]
        assert world.bodies[0]["tool_choice"] == "auto"
        assert choice["finish_reason"] == "tool_calls"
        (made,) = choice["message"]["tool_calls"]
        assert (made["function"]["name"], json.loads(made["function"]["arguments"])) == ("get_weather", {"at": "Ulm"})

    def test_results_of_own_tools_reach_the_model_as_they_came(self, world: World) -> None:
        calls = [{"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}]
        talk = [
            *ask(PICTURE),
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        ]
        world.says("<answer>sunny</answer>")
        assert world.choice(messages=talk, tools=[WEATHER])["message"]["content"] == "sunny"
        assert world.bodies[0]["messages"][2]["tool_calls"] == calls
        assert world.bodies[0]["messages"][3] == {"role": "tool", "content": "sunny", "tool_call_id": "c1"}

    def test_native_calls_of_the_zoom_are_played(self, world: World) -> None:
        native = Turn(tool_calls=((TOOL_NAME, '{"bbox_2d": [0, 0, 100, 100]}'),), finish_reason="tool_calls")
        world.says(native, "<answer>red</answer>")
        assert world.choice()["message"]["content"] == "red"
        assert len(world.script.asked[1].images) == 2
        text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in world.chunks())
        assert text == "red"

    def test_call_that_is_handed_over_and_written_stands_once(self, world: World) -> None:
        written = call(0, 0, 100, 100)
        both = Turn(written, tool_calls=((TOOL_NAME, '{"bbox_2d": [0, 0, 100, 100]}'),), finish_reason="tool_calls")
        for ask_so in (world.choice, world.chunks):
            world.says(both, "<answer>red</answer>")
            ask_so()
            assert world.script.asked[-1].body["messages"][2]["content"] == written

    def test_call_that_a_thought_names_is_none_that_was_written(self, world: World) -> None:
        native = Turn(
            reasoning="a <tool_call>?",
            tool_calls=((TOOL_NAME, '{"bbox_2d": [0, 0, 100, 100]}'),),
            finish_reason="tool_calls",
        )
        for ask_so in (world.choice, world.chunks):
            world.says(native, "<answer>red</answer>")
            ask_so()
            assert len(world.script.asked[-1].images) == 2

    def test_thoughts_of_a_reasoning_parser_are_thoughts(self, world: World) -> None:
        world.says(Turn("<answer>red</answer>", reasoning="hm"))
        assert world.choice()["message"]["reasoning_content"] == "hm\n"
        thoughts = [chunk["choices"][0]["delta"].get("reasoning_content") or "" for chunk in world.chunks()]
        assert "".join(thoughts) == "hm\n"

    def test_rounds_of_talk_keep_their_order(self, world: World) -> None:
        world.says("<answer>two</answer>")
        talk = [*ask(PICTURE, "One?"), {"role": "assistant", "content": "one"}, *ask(plain_picture("red"), "Two?")]
        world.choice(messages=talk)
        (asked,) = world.script.asked
        assert asked.texts[1:] == ["<image>\nOne?", "one", f"<image>\nTwo?{PROMPT.instruction}"]
        assert [image.convert("RGB").getpixel((0, 0)) for image in asked.images] == [(128, 128, 128), (255, 0, 0)]

    def test_text_can_not_forge_an_image_or_a_control_token(self, world: World) -> None:
        world.says("<answer>x</answer>")
        world.choice(messages=ask(PICTURE, "<image> <|im_end|> <|image_pad|>?"))
        assert world.script.asked[0].texts[1].count("<image>") == 1
        assert "<|" not in world.script.asked[0].texts[1]

    def test_question_without_a_picture_is_handed_on_as_it_is(self, world: World) -> None:
        world.says(f"hello {ZOOM}")
        choice = world.choice(messages=ask(None, "Hi"))
        assert world.script.asked[0].texts == ["Hi"]
        assert choice["message"]["content"] == "hello"


class TestFields:
    def test_sampling_is_handed_on(self, world: World) -> None:
        world.says("<answer>x</answer>")
        fields = {"temperature": 0.5, "top_p": 0.9, "seed": 3, "top_k": 20, "presence_penalty": 0.1}
        world.choice(
            **fields, user="me", metadata={"a": "b"}, logprobs=False, chat_template_kwargs={"enable_thinking": True}
        )
        sent = world.bodies[0]
        assert {name: sent[name] for name in fields} == fields
        assert sent["chat_template_kwargs"] == {"enable_thinking": True}
        assert not {"user", "metadata", "deepeyes", "n", "logprobs"} & set(sent)

    def test_null_is_as_if_the_field_were_not_there(self, world: World) -> None:
        world.says("<answer>x</answer>")
        fields = ("n", "stream", "stop", "seed", "max_tokens", "response_format", "logprobs", "tools", "deepeyes")
        assert world.choice(**dict.fromkeys(fields))["message"]["content"] == "x"
        assert not set(fields) & set(world.bodies[0]) - {"stream", "max_tokens"}

    def test_n_gives_answers_with_seeds_of_their_own(self, world: World) -> None:
        world.acts(lambda asked: f"<answer>{asked.body['seed']}</answer>")
        choices = world.post(n=3, seed=7).json()
        assert [choice["message"]["content"] for choice in choices["choices"]] == ["7", "8", "9"]
        assert [choice["index"] for choice in choices["choices"]] == [0, 1, 2]
        assert choices["usage"] == {"prompt_tokens": 300, "completion_tokens": 30, "total_tokens": 330}
        said = {0: "", 1: "", 2: ""}
        for chunk in world.chunks(n=3, seed=7):
            said[chunk["choices"][0]["index"]] += chunk["choices"][0]["delta"].get("content") or ""
        assert said == {0: "7", 1: "8", 2: "9"}

    @pytest.mark.parametrize("stop", ["\n", ["zzz", "\n"]])
    def test_stop_cuts_the_answer_and_no_thought(self, world: World, stop: Any) -> None:
        world.says("<think>a\nb</think><answer>red\nand blue</answer>")
        choice = world.choice(stop=stop)
        assert (choice["message"]["content"], choice["finish_reason"]) == ("red", "stop")
        assert choice["message"]["reasoning_content"] == "a\nb\n"
        assert "stop" not in world.bodies[0]

    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
    def test_token_limit_is_that_of_all_turns_together(self, world: World, name: str) -> None:
        world.says(ZOOM, ZOOM, "<answer>red</answer>")
        choice = world.choice(**{name: 15})
        assert [body["max_tokens"] for body in world.bodies] == [15, 5]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("", "length")

    def test_turn_that_was_cut_says_so(self, world: World) -> None:
        world.says(Turn("<think>a</think><answer>re", finish_reason="length"))
        choice = world.choice(deepeyes={"trace": True})
        assert (choice["message"]["content"], choice["finish_reason"]) == ("re", "length")
        assert choice["deepeyes"]["stopped"] == "max_tokens"

    def test_last_turn_that_still_calls_says_that_turns_ran_out(self, world: World) -> None:
        world.says(ZOOM)
        choice = world.choice(deepeyes={"trace": True})
        assert len(world.bodies) == 3
        assert (choice["message"]["content"], choice["finish_reason"]) == ("", "length")
        assert choice["deepeyes"]["stopped"] == "max_turns"
        assert len(choice["deepeyes"]["zooms"]) == 2

    def test_refused_call_is_told(self, world: World) -> None:
        world.says(call(1, 1, 1, 1), "<answer>x</answer>")
        (zoom,) = world.choice(deepeyes={"trace": True})["deepeyes"]["zooms"]
        assert (zoom["error"], zoom["box"], zoom["crop"]) == ("empty_box", None, None)
        assert zoom["told"].startswith("Error: the box holds no part")

    def test_usage_is_not_invented(self, world: World) -> None:
        world.says(ZOOM, Turn("<answer>x</answer>", usage=None))
        assert world.post().json()["usage"] is None
        assert world.chunks(stream_options={"include_usage": True})[-1]["usage"] is None

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"logprobs": True}, "logprobs"),
            ({"functions": []}, "functions"),
            ({"temprature": 1}, "temprature"),
            ({"n": 0}, "n"),
            ({"n": 99}, "n"),
            ({"n": "3"}, "n"),
            ({"n": True}, "n"),
            ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
            ({"stop": 3}, "stop"),
            ({"stop": ["a", None]}, "stop[1]"),
            ({"stream": "true"}, "stream"),
            ({"max_tokens": "5"}, "max_tokens"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"stream_options": {"include_usage": True}}, "stream_options"),
            ({"response_format": {"type": "yaml"}}, "response_format.type"),
            ({"response_format": {"type": "json_schema"}}, "response_format"),
            ({"messages": []}, "messages"),
            ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
            ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0].type"),
            ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
            ({"messages": ask(PICTURE) * 17}, "messages"),
            ({"modalities": ["audio"]}, "modalities[0]"),
        ],
    )
    def test_what_can_not_be_done_is_refused_by_its_name(
        self, world: World, fields: dict[str, Any], param: str
    ) -> None:
        world.says("x")
        response = world.post(**fields)
        assert response.status_code == 400
        assert error_of(response)["param"] == param
        assert world.bodies == []

    def test_model_that_is_not_there_is_404(self, world: World) -> None:
        response = world.post(model="gpt-4")
        assert (response.status_code, error_of(response)["code"]) == (404, "model_not_found")

    @pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
    @pytest.mark.parametrize("path", ["/completions", "/chat", "/responses", "/"])
    def test_unknown_path_is_404_and_says_what_there_is(self, world: World, method: str, path: str) -> None:
        response = world.http.request(method, path)
        assert (response.status_code, error_of(response)["code"]) == (404, "unknown_url")
        assert "POST /v1/chat/completions" in error_of(response)["message"]

    @pytest.mark.parametrize(
        ("method", "path", "allowed"), [("GET", "/chat/completions", "POST"), ("POST", "/models", "GET")]
    )
    def test_wrong_method_is_405_and_says_which_is_right(
        self, world: World, method: str, path: str, allowed: str
    ) -> None:
        response = world.http.request(method, path)
        assert (response.status_code, error_of(response)["code"]) == (405, "method_not_allowed")
        assert response.headers["Allow"] == allowed
        assert f"expected {allowed}" in error_of(response)["message"]

    def test_request_of_too_many_bytes_is_refused_with_the_option_that_allows_it(self) -> None:
        with a_world("--max-request-bytes", "1000") as world:
            response = world.post(messages=ask(None, "x" * 1000))
            assert (response.status_code, error_of(response)["code"]) == (413, "request_too_large")
            assert "1000 bytes (--max-request-bytes)" in error_of(response)["message"]

    def test_body_that_is_no_json_is_refused(self, world: World) -> None:
        headers = {"Content-Type": "application/json"}
        assert error_of(world.http.post("/chat/completions", content=b"{", headers=headers))["message"]
        response = world.http.post("/chat/completions", content=b"{}", headers={"Content-Type": "text/plain"})
        assert response.status_code == 415


SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}, "strict": True}}


class TestResponseFormat:
    @pytest.mark.parametrize("form", [SCHEMA, {"type": "json_object"}])
    def test_answer_is_given_as_json_in_a_turn_of_its_own(self, world: World, form: dict[str, Any]) -> None:
        world.acts(
            lambda asked: (
                '{"colour": "red"}'
                if "response_format" in asked.body
                else (ZOOM, "<answer>red</answer>")[asked.turn - 1]
            )
        )
        choice = world.choice(response_format=form)
        assert json.loads(choice["message"]["content"]) == {"colour": "red"}
        assert [body.get("response_format") for body in world.bodies] == [None, None, form]
        assert world.script.asked[-1].texts[-2] == "<answer>red</answer>"
        assert (
            "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in world.chunks(response_format=form))
            == '{"colour": "red"}'
        )

    def test_endpoint_that_does_not_hold_to_the_form_is_a_502(self, world: World) -> None:
        world.says("<answer>red</answer>")
        response = world.post(response_format={"type": "json_object"})
        assert response.status_code == 502
        assert "response_format" in error_of(response)["message"]


class TestRaw:
    def test_raw_content_is_the_text_of_all_turns(self) -> None:
        with a_world("--raw") as world:
            turns = [f"<think>a</think>{ZOOM}", "<think>b</think><answer>red STOP blue</answer>"]
            world.says(*turns)
            assert world.choice()["message"] == {"role": "assistant", "content": "\n".join(turns), "refusal": None}
            said = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in world.chunks())
            assert said == "\n".join(turns)
            said = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in world.chunks(stop=" STOP"))
            assert said == f"{turns[0]}\n<think>b</think><answer>red"


class TestControl:
    def test_blank_crops_are_grey_for_the_model_and_in_the_trace(self) -> None:
        with a_world("--blank-crops") as world:
            world.says(ZOOM, "<answer>x</answer>")
            picture = plain_picture("red")
            world.choice(messages=ask(picture))
            view, crop = (image.convert("RGB").getpixel((3, 3)) for image in world.script.asked[1].images)
            assert (view, crop) == ((255, 0, 0), (128, 128, 128))


class TestFaults:
    def test_backend_that_fails_is_a_502_with_its_words(self, world: World) -> None:
        world.says(Turn("out of memory on GPU 3", status=500))
        for fields in ({}, {"stream": True}):
            response = world.post(**fields)
            assert response.status_code == 502
            assert "out of memory on GPU 3" in error_of(response)["message"]
            assert "its log says more" in error_of(response)["message"]

    def test_request_that_the_backend_refuses_is_a_400_with_its_words(self, world: World) -> None:
        world.says(ZOOM, Turn("the prompt is too long", status=400))
        response = world.post()
        assert response.status_code == 400
        assert "the prompt is too long" in error_of(response)["message"]

    def test_stream_that_breaks_ends_with_an_error(self, world: World) -> None:
        world.says("<think>one long thought</think>" + ZOOM, Turn("<think>another thought</think>", cut=True))
        chunks = world.chunks()
        assert chunks[-1]["error"]["code"] == "backend_error"
        assert not any(chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1])

    def test_fault_of_one_answer_is_a_fault_of_the_request(self, world: World) -> None:
        world.acts(lambda asked: Turn("no", status=500) if asked.body["seed"] == 1 else "<answer>x</answer>")
        assert world.post(n=2, seed=0).status_code == 502

    def test_backend_that_is_away_is_a_502(self) -> None:
        with serving("http://127.0.0.1:9/v1", "--model", "m", "--retries", "0") as url:
            response = httpx.post(f"{url}/chat/completions", json={"messages": ask(None, "Hi")}, timeout=30)
            assert response.status_code == 502
            assert "http://127.0.0.1:9/v1" in error_of(response)["message"]

    def test_client_that_goes_away_stops_its_turns(self, world: World) -> None:
        for fields in ({}, {"stream": True}):
            world.acts(lambda asked: ZOOM if asked.turn == 1 else Turn(hang=True))
            with contextlib.suppress(httpx.ReadTimeout):
                world.http.post("/chat/completions", json={"messages": ask(PICTURE), **fields}, timeout=1)
            assert until(lambda: world.script.left == 1)
            assert len(world.bodies) == 2
            assert world.http.get(f"{world.url[:-3]}/health").json()["under_way"] == 0

    def test_request_that_takes_too_long_is_a_504(self) -> None:
        with a_world("--timeout", "0.5") as world:
            world.says(Turn(hang=True))
            response = world.post()
            assert (response.status_code, error_of(response)["code"]) == (504, "timeout")
            assert until(lambda: world.script.left == 1)

    def test_requests_beyond_the_limit_are_told_to_come_back(self) -> None:
        with a_world("--max-requests", "1") as world:
            world.says(Turn("<think>a long thought</think><answer>x</answer>", pace=0.3))
            with world.http.stream(
                "POST", "/chat/completions", json={"messages": ask(PICTURE), "stream": True}
            ) as first:
                response = world.post()
                assert (response.status_code, response.headers["Retry-After"]) == (429, "2")
                assert "red" not in first.read().decode()
            assert world.post().status_code == 200

    def test_client_that_does_not_read_holds_no_place(self) -> None:
        with a_world("--max-requests", "1") as world:
            world.says(Turn("<think>" + "x" * 9_000_000 + "</think>", size=1 << 18))
            with world.http.stream("POST", "/chat/completions", json={"messages": ask(PICTURE), "stream": True}):
                health = f"{world.url[:-3]}/health"
                assert until(lambda: httpx.get(health).json()["under_way"] == 0)


class TestAccess:
    def test_key_is_asked_for(self) -> None:
        with a_world(api_key="secret") as world:
            world.says("<answer>x</answer>")
            assert error_of(world.post())["code"] == "invalid_api_key"
            world.http.headers["Authorization"] = "Bearer wrong"
            assert world.post().status_code == 401
            world.http.headers["Authorization"] = "Bearer secret"
            assert world.post().status_code == 200
            assert "secret" not in json.dumps(world.script.headers)
            assert httpx.get(world.url[:-2]).status_code == 200  # the page itself holds nothing

    def test_name_that_leads_here_by_a_trick_is_refused(self, world: World) -> None:
        response = world.http.get("/models", headers={"Host": "evil.example"})
        assert (response.status_code, error_of(response)["code"]) == (403, "wrong_host")
        assert world.http.get("/models", headers={"Host": "localhost:8100"}).status_code == 200
