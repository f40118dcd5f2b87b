"""`ask` from the command line, in front of a scripted model, of a running `serve`, and of what stands for swift."""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from serve_world import Asked, Script, Turn, call, playing, serving, until

from deepeyes.serving.ask import deploy
from deepeyes.serving.ask.cli import main
from deepeyes.serving.ask.graphics import Protocol, draw, find_protocol
from deepeyes.serving.ask.terminal import plain

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
ATTACK = "\x1b]0;owned\x07</script><img src=x>"
STAND_IN = """#!{python}
import http.server, json, os, signal, sys, time
words = sys.argv[1:]
if "--deaf" in words:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
print("words", words, "pixels", os.environ["MAX_PIXELS"])
if "--fail" in words:
    sys.exit("CUDA out of memory")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = words[words.index("--served_model_name") + 1]
        self.reply({{"object": "list", "data": [{{"id": name, "object": "model"}}]}})
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if "--hang" in words:
            open(os.environ["STAND_IN_PID"] + ".asked", "w").close()
            time.sleep(60)
        delta = {{"index": 0, "delta": {{"content": "<answer>red</answer>"}}, "finish_reason": "stop"}}
        body = {{"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [delta]}}
        data = ("data: " + json.dumps(body) + "\\n\\ndata: [DONE]\\n\\n").encode()
        self.reply(data, "text/event-stream")
    def reply(self, body, kind="application/json"):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
with open(os.environ["STAND_IN_PID"], "w") as file:
    file.write(str(os.getpid()))
http.server.HTTPServer(("127.0.0.1", int(words[words.index("--port") + 1])), Handler).serve_forever()
"""


def policy(asked: Asked) -> Turn | str:
    if asked.turn == 1:
        return Turn(f"<think>I look.</think>{call(100, 100, 300, 200, label=ATTACK)}")
    return f"<think>Red.</think><answer>It is red.{ATTACK}</answer>"


@pytest.fixture(scope="module")
def script() -> Iterator[Script]:
    with playing(Script(policy)) as made:
        yield made


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (1200, 900), "red").save(path)
    return path


class TestAnswer:
    def test_answer_goes_to_stdout_and_all_else_to_stderr(
        self, script: Script, photo: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([str(photo), "Which colour?", "--url", script.url]) == 0
        out, err = capsys.readouterr()
        assert out.strip() == "It is red.]0;owned</script><img src=x>"
        assert err.startswith("I look.\n<tool_call>")
        assert re.search(r"crop .*: box \[\d+, \d+, \d+, \d+\] of the view, \d+ x \d+ pixels", err.replace("\n", " "))
        assert "\x1b" not in out + err

    def test_running_serve_is_asked_as_it_plays_itself(
        self, script: Script, photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DEEPEYES_SERVE_API_KEY", "secret")
        script.asked.clear()
        with serving(script.url, api_key="secret") as url:
            assert main([str(photo), "Which colour?", "--url", url]) == 0
        out, err = capsys.readouterr()
        assert out.startswith("It is red.")
        assert "crop" in err
        assert [asked.turn for asked in script.asked] == [1, 2]

    def test_several_pictures_go_along_in_their_order(self, script: Script, photo: Path, tmp_path: Path) -> None:
        other = tmp_path / "other.png"
        Image.new("RGB", (600, 600), "blue").save(other)
        script.asked.clear()
        assert main([str(photo), str(other), "Which colour?", "--url", script.url]) == 0
        assert [image.convert("RGB").getpixel((0, 0))[2] > 200 for image in script.asked[0].images] == [False, True]

    def test_program_runs_without_swift(self, script: Script, photo: Path) -> None:
        words = [
            sys.executable,
            "-X",
            "importtime",
            "-m",
            "deepeyes.serving.ask",
            photo,
            "Which colour?",
            "--url",
            script.url,
        ]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        imported = {
            line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")
        }
        assert "openai" in imported
        assert not {"swift", "torch", "transformers"} & imported


class TestFailure:
    def test_trajectory_without_an_answer_is_no_success(self, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with playing(Script(lambda _: call(100, 100, 300, 200))) as script:
            assert main([str(photo), "Which colour?", "--url", script.url, "--max-turns", "2"]) == 1
        out, err = capsys.readouterr()
        assert out.strip() == ""
        assert "out of turns" in err

    def test_endpoint_that_fails_is_told(self, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with playing(Script(lambda _: Turn("no memory", status=500))) as script:
            assert main([str(photo), "Which colour?", "--url", script.url, "--retries", "0"]) == 1
            with serving(script.url, "--retries", "0") as url:
                assert main([str(photo), "Which colour?", "--url", url]) == 1
        assert capsys.readouterr().err.count("no memory") >= 2

    @pytest.mark.parametrize("words", [["missing.jpg", "Which?"], ["{photo}"], ["{text}", "Which?"]])
    def test_wrong_usage_is_told(
        self, photo: Path, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "a.txt").write_text("no picture")
        named = [word.format(photo=photo, text=tmp_path / "a.txt") for word in words]
        assert main([*named, "--url", "http://127.0.0.1:9/v1"]) == 2
        assert "expected" in capsys.readouterr().err


class TestPage:
    def test_page_is_one_file_with_all_that_happened(self, script: Script, photo: Path, tmp_path: Path) -> None:
        page = tmp_path / "answer.html"
        assert main([str(photo), f"Which colour? {ATTACK}", "--url", script.url, "--page", str(page)]) == 0
        text = page.read_text()
        assert "It is red." in text
        assert text.count("data:image/") >= 2
        assert text.count("</script>") == 2  # what was said ends none
        assert not re.search(r"(?:src|href)=\"(?!data:)[^\"]+\"", text)


class TestDeploy:
    @pytest.fixture
    def checkpoint(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A folder, and a program in the place of swift, which is started as swift would be."""
        folder = tmp_path / "checkpoint-40"
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "qwen2_5_vl"}')
        program = tmp_path / "swift"
        program.write_text(STAND_IN.format(python=sys.executable))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("SWIFT", str(program))
        monkeypatch.setenv("STAND_IN_PID", str(tmp_path / "pid"))
        return folder

    def test_checkpoint_is_served_for_the_question_and_stopped(
        self, checkpoint: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([str(photo), "Which colour?", "--model", str(checkpoint)]) == 0
        assert capsys.readouterr().out.strip() == "red"
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)

    @pytest.mark.parametrize(
        ("signals", "words"),
        [
            ([signal.SIGINT], ["--hang"]),
            ([signal.SIGTERM], ["--hang"]),
            ([signal.SIGHUP], ["--hang"]),
            ([signal.SIGINT, signal.SIGINT], ["--hang", "--deaf"]),
        ],
    )
    def test_server_is_stopped_with_who_asks(
        self, checkpoint: Path, photo: Path, tmp_path: Path, signals: list[signal.Signals], words: list[str]
    ) -> None:
        program = [sys.executable, "-m", "deepeyes.serving.ask", photo, "Which?", "--model", checkpoint, "--", *words]
        with subprocess.Popen(list(map(str, program)), cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            assert until((tmp_path / "pid.asked").exists, 60)
            for number in signals:
                process.send_signal(number)
                time.sleep(1)
            assert process.wait(20) == 130
            assert process.stderr
            assert "Traceback" not in process.stderr.read()
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.parametrize("ctrl_c", ["default_int_handler", "SIG_IGN"])  # the latter: in the background of a script
    def test_signal_within_a_task_of_the_answer_is_no_traceback(
        self, checkpoint: Path, photo: Path, tmp_path: Path, number: signal.Signals, ctrl_c: str
    ) -> None:
        script = (
            f"import asyncio, os, signal, sys\nsignal.signal(signal.SIGINT, signal.{ctrl_c})\n"
            "from deepeyes.serving.ask.cli import main\n"
            "from deepeyes.serving.chat import Chat\n"
            "async def play(self, *_):\n"
            f"    os.kill(os.getpid(), {int(number)})\n"
            "    await asyncio.sleep(30)\n"
            "Chat._play_choices = play\n"
            "sys.exit(main())\n"
        )
        program = [sys.executable, "-c", script, str(photo), "Which?", "--model", str(checkpoint)]
        done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (130, 1), done.stderr
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)

    def test_server_that_ends_is_told_in_its_words(
        self, checkpoint: Path, photo: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([str(photo), "Which?", "--model", str(checkpoint), "--", "--fail"]) == 1
        assert "CUDA out of memory" in capsys.readouterr().err

    def test_swift_is_told_what_a_folder_does_not_tell(self, checkpoint: Path) -> None:
        command = deploy.command_of(checkpoint, 8123, ["--infer_backend", "transformers"])
        assert command[1:8] == ["deploy", "--model", str(checkpoint), "--host", "127.0.0.1", "--port", "8123"]
        pairs = dict(zip(command[8::2], command[9::2], strict=True))
        assert (pairs["--model_type"], pairs["--template"]) == ("qwen2_5_vl", "qwen2_5_vl")
        assert command.count("--infer_backend") == 1

    def test_folder_without_a_checkpoint_is_told(self, photo: Path, tmp_path: Path) -> None:
        assert main([str(photo), "Which?", "--model", str(tmp_path)]) == 1


class TestGraphics:
    @pytest.mark.parametrize(
        ("env", "protocol"),
        [
            ({"KITTY_WINDOW_ID": "1"}, Protocol.KITTY),
            ({"TERM": "xterm-kitty"}, Protocol.KITTY),
            ({"TERM_PROGRAM": "iTerm.app"}, Protocol.ITERM2),
            ({"TERM_PROGRAM": "WezTerm"}, Protocol.ITERM2),
            ({"KITTY_WINDOW_ID": "1", "TMUX": "x"}, Protocol.NONE),
            ({"TERM": "xterm-256color"}, Protocol.NONE),
        ],
    )
    def test_terminal_is_known_by_what_it_says(self, env: dict[str, str], protocol: Protocol) -> None:
        assert find_protocol(env, is_terminal=True) is protocol
        assert find_protocol(env, is_terminal=False) is Protocol.NONE

    def test_kitty_and_iterm2_get_the_picture_as_png(self) -> None:
        image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8))
        kitty = draw(image, Protocol.KITTY)
        chunks = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", kitty)
        assert [chunk[0][-3:] for chunk in chunks] == ["m=1"] * (len(chunks) - 1) + ["m=0"]
        assert all(len(chunk[1]) <= 4096 for chunk in chunks)
        iterm = re.fullmatch(r"\x1b\]1337;File=inline=1;size=(\d+):(.*)\x07", draw(image, Protocol.ITERM2))
        assert iterm
        for data in ("".join(chunk[1] for chunk in chunks), iterm[2]):
            shown = Image.open(io.BytesIO(base64.b64decode(data)))
            assert np.array_equal(np.asarray(shown), np.asarray(image))
        assert int(iterm[1]) == len(base64.b64decode(iterm[2]))

    def test_sixel_holds_every_pixel(self) -> None:
        image = Image.new("RGB", (40, 20), (255, 0, 0))
        image.paste((0, 0, 255), (10, 5, 30, 15))
        assert np.array_equal(read_sixel(draw(image, Protocol.SIXEL)), np.asarray(image))


def read_sixel(text: str) -> np.ndarray:
    """Decodes sixel, by its description."""
    head = re.match(r'\x1bPq"1;1;(\d+);(\d+)', text)
    assert head
    width, height = map(int, head.groups())
    pixels = np.zeros((height + 6, width, 3), np.uint8)
    palette: dict[int, tuple[int, ...]] = {}
    x = top = colour = 0
    for token in re.finditer(r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|!(\d+)(.)|([?-~])|(\$)|(-)", text[head.end() : -2]):
        number, red, green, blue, use, count, run, one, back, down = token.groups()
        if number:
            palette[int(number)] = tuple(round(int(value) * 255 / 100) for value in (red, green, blue))
        elif use:
            colour = int(use)
        elif back or down:
            x, top = 0, top + 6 * bool(down)
        else:
            end = x + int(count or 1)
            for bit in range(6):
                if (ord(run or one) - 63) >> bit & 1:
                    pixels[top + bit, x:end] = palette[colour]
            x = end
    return pixels[:height]


class TestPlain:
    def test_text_can_not_steer_the_terminal(self) -> None:
        assert plain("a\x1b[2J\x9b1m\x07\x08b\r\n\tc\u202ed") == "a[2J1mb\n\tcd"
