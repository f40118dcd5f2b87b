"""`deepeyes.sh train`: what it hands to swift, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sandbox import (
    LAYOUTS,
    OFFICIAL_FILES,
    PROJECT,
    assert_refused,
    devices,
    free_port,
    layout_facts,
    option,
    read_command,
)

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox import Sandbox


class TestTrain:
    """`deepeyes.sh train`."""

    def test_no_command_at_all_trains(self, sandbox: Sandbox, rollout_port: str) -> None:
        assert sandbox.run("deepeyes.sh", ROLLOUT_PORT=rollout_port).returncode == 0
        (call,) = sandbox.calls
        assert call["argv"][:3] == ["rlhf", "--rlhf_type", "grpo"]

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_dry_run_prints_exactly_what_a_run_calls(self, sandbox: Sandbox, rollout_port: str, layout: str) -> None:
        settings = {"LAYOUT": layout, "ROLLOUT_PORT": rollout_port}
        dry = sandbox.run("deepeyes.sh", "train", "--dry-run", "--seed", "a 'b'", **settings)
        assert sandbox.calls == []
        assert dry.stdout.count("\n") == 1
        assert sandbox.run("deepeyes.sh", "train", "--seed", "a 'b'", **settings).returncode == 0
        env, argv = read_command(dry.stdout)
        assert sandbox.calls == [{"argv": argv, "env": env}]
        gpus = layout_facts(PROJECT / "layouts" / f"{layout}.sh")["train_gpus"]
        assert devices(env) == gpus
        assert env.get("NPROC_PER_NODE") == (str(len(gpus)) if gpus else None)
        assert argv[-2:] == ["--seed", "a 'b'"]

    @pytest.mark.parametrize("layout", ["nodes", "mega8", "cpu"])
    def test_a_printed_command_holds_what_tells_several_nodes_apart(self, sandbox: Sandbox, layout: str) -> None:
        nodes = {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29501"}
        env, _ = read_command(sandbox.run("deepeyes.sh", "train", "--dry-run", LAYOUT=layout, **nodes).stdout)
        assert {name: env.get(name) for name in nodes} == nodes
        env, _ = read_command(sandbox.run("deepeyes.sh", "train", "--dry-run", LAYOUT=layout).stdout)
        assert not set(nodes) & set(env)

    def test_preflight_sees_the_arguments_and_stops_the_run_on_an_error(self, sandbox: Sandbox) -> None:
        result = sandbox.run("deepeyes.sh", "train", "--seed", "3", LAYOUT="cpu", BAD="train")
        assert result.returncode == 1
        assert "DOCTOR=false" in result.stderr
        assert sandbox.calls == []
        assert sandbox.programs == [["--for", "train", "--", "--seed", "3"]]
        assert sandbox.run("deepeyes.sh", LAYOUT="cpu", BAD="train", DOCTOR="false").returncode == 0
        assert len(sandbox.calls) == len(sandbox.programs) == 1

    @pytest.mark.parametrize("bad", ["", "before", "after"])
    def test_preflight_has_a_part_before_the_wait_and_one_after_it(
        self, sandbox: Sandbox, rollout_port: str, bad: str
    ) -> None:
        result = sandbox.run("deepeyes.sh", ROLLOUT_PORT=rollout_port, BAD=bad)
        assert (result.returncode, len(sandbox.calls)) == ((1, 0) if bad else (0, 1))
        assert [words[3] for words in sandbox.programs] == (["before"] if bad == "before" else ["before", "after"])

    def test_it_waits_for_the_rollout_server_and_says_how_to_start_it(self, sandbox: Sandbox) -> None:
        port = str(free_port())
        result = sandbox.run("deepeyes.sh", ROLLOUT_PORT=port, ROLLOUT_WAIT="1")
        assert result.returncode == 1
        assert f"waiting for the rollout server at 127.0.0.1:{port}" in result.stderr
        assert result.stderr.endswith("within 1 seconds; start it with: bash deepeyes.sh rollout\n")
        assert sandbox.calls == []

    def test_the_facts_that_training_depends_on_are_passed(self, sandbox: Sandbox) -> None:
        _, argv = read_command(sandbox.run("deepeyes.sh", "train", "--dry-run").stdout)
        assert option(argv, "multi_turn_scheduler") == ["deepeyes_scheduler"]
        assert option(argv, "loss_scale") == ["default"]
        assert option(argv, "vllm_server_pass_dataset") == ["true"]
        assert option(argv, "vllm_server_port") == ["8001"]
        assert option(argv, "reward_funcs") == [
            *("deepeyes_reward", "deepeyes_accuracy", "deepeyes_format", "deepeyes_tool")
        ]
        assert option(argv, "reward_weights") == ["1", "0", "0", "0"]
        assert option(argv, "dataset") == [str(sandbox.folder / "data" / name) for name in OFFICIAL_FILES]

    @pytest.mark.parametrize(
        ("settings", "accumulation"),
        [
            ({}, 24 * 16 // 3),
            ({"LAYOUT": "train8"}, 24 * 16 // 6),
            ({"LAYOUT": "train8", "PROMPTS_PER_STEP": "255"}, 255 * 16 // 6),
            ({"LAYOUT": "nodes", "NNODES": "4", "PROMPTS_PER_STEP": "256"}, 256 * 16 // 32),
            ({"LAYOUT": "lora4", "PER_DEVICE_BATCH": "4"}, 24 * 16 // 12),
            ({"LAYOUT": "cpu", "PROMPTS_PER_STEP": "2", "NUM_GENERATIONS": "4"}, 8),
            ({"TRAIN_GPUS": "0,1", "NUM_GENERATIONS": "8"}, 96),
            ({"TRAIN_GPUS": "7"}, 24 * 16),
        ],
    )
    def test_prompts_a_step_become_accumulation(
        self, sandbox: Sandbox, settings: dict[str, str], accumulation: int
    ) -> None:
        _, argv = read_command(sandbox.run("deepeyes.sh", "train", "--dry-run", **settings).stdout)
        assert option(argv, "gradient_accumulation_steps") == [str(accumulation)]

    @pytest.mark.parametrize(
        ("settings", "size"), [({}, 24 * 16), ({"PROMPTS_PER_STEP": "64", "TENSOR_PARALLEL": "2"}, 64 * 16)]
    )
    def test_megatron_is_told_the_trajectories_of_an_update(
        self, sandbox: Sandbox, settings: dict[str, str], size: int
    ) -> None:
        dry = sandbox.run("deepeyes.sh", "train", "--dry-run", LAYOUT="mega8", **settings)
        _, argv = read_command(dry.stdout)
        assert option(argv, "global_batch_size") == [str(size)]
        assert "/megatron rlhf " in dry.stdout
        assert "--deepspeed" not in argv

    def test_megatron_of_an_older_swift_is_named(self, sandbox: Sandbox) -> None:
        (sandbox.folder.parent / "bin" / "megatron").unlink()
        assert_refused(
            sandbox.run("deepeyes.sh", "--dry-run", LAYOUT="mega8"), r"/megatron is missing; .* ms-swift 4.6"
        )

    def test_few_prompts_a_step_are_warned_of(self, sandbox: Sandbox) -> None:
        assert "warning" in sandbox.run("deepeyes.sh", "--dry-run", PROMPTS_PER_STEP="15").stderr
        assert "warning" not in sandbox.run("deepeyes.sh", "--dry-run", PROMPTS_PER_STEP="18").stderr

    def test_data_dir_and_row_counts_reach_the_files(self, sandbox: Sandbox) -> None:
        settings = {"DATA_DIR": "/d", "DATASET": "deepeyes_chart#8 /own/file.parquet#5 org/hub-set"}
        _, argv = read_command(sandbox.run("deepeyes.sh", "train", "--dry-run", **settings).stdout)
        assert option(argv, "dataset") == [f"/d/{OFFICIAL_FILES[1]}#8", "/own/file.parquet#5", "org/hub-set"]

    def test_longest_trajectory_fits_the_rollout_server(self, sandbox: Sandbox) -> None:
        settings = {"MAX_TURNS": "7", "MAX_PIXELS": str(784 * 1000), "MAX_COMPLETION_LENGTH": "1000"}
        _, argv = read_command(sandbox.run("deepeyes.sh", "rollout", "--dry-run", **settings).stdout)
        (length,) = option(argv, "vllm_max_model_len")
        assert int(length) >= 7 * (1000 + 1000) + 1536
        assert int(length) % 1024 == 0

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (
                {"LAYOUT": "node9"},
                r"LAYOUT=node9 is unknown, did you mean node8\? Choose one of: .*mega8 node8 nodes",
            ),
            ({"TRAINER": "fsdp"}, r"TRAINER=fsdp must be one of: deepspeed megatron"),
            ({"TRAINER": "megatron", "LAYOUT": "cpu"}, r"TRAINER=megatron needs GPUs"),
            ({"LAYOUT": "mega8", "TENSOR_PARALLEL": "3"}, r"TENSOR_PARALLEL=3 does not divide the 4 GPUs"),
            (
                {"LAYOUT": "mega8", "TENSOR_PARALLEL": "1", "PROMPTS_PER_STEP": "18"},
                r"4 copies .* do not share evenly; the next that fits is PROMPTS_PER_STEP=20",
            ),
            ({"PROMPTS_PER_STEP": "0"}, r"PROMPTS_PER_STEP=0 must be a whole number above 0"),
            ({"PROMPTS_PER_STEP": "25"}, r"400 trajectories, which 3 processes .* fits is PROMPTS_PER_STEP=27"),
            ({"NUM_GENERATIONS": "1"}, r"NUM_GENERATIONS=1 has no group"),
            ({"NNODES": "2"}, r"NNODES=2 needs NODE_RANK, from 0 to 1 .*, and MASTER_ADDR"),
            ({"NNODES": "2", "NODE_RANK": "1"}, r"NNODES=2 needs NODE_RANK"),
            ({"PER_DEVICE_BATCH": "two"}, r"PER_DEVICE_BATCH=two"),
            ({"TRAIN_GPUS": "0 1"}, r"TRAIN_GPUS=0 1 must list GPUs as 0,1,2"),
            ({"TUNER": "qlora"}, r"TUNER=qlora must be one of: full lora"),
            ({"USE_VLLM": "yes"}, r"USE_VLLM=yes must be one of: true false"),
            ({"DOCTOR": "0"}, r"DOCTOR=0 must be one of: true false"),
            ({"TRAIN_VISION": "no"}, r"TRAIN_VISION=no must be one of: true false"),
            ({"MAX_PIXELS": "1e6"}, r"MAX_PIXELS=1e6"),
            ({"MODEL": "/no/such/folder"}, r"MODEL=/no/such/folder is no folder"),
            ({"SWIFT": "no-such-swift"}, r"SWIFT=no-such-swift is no command"),
            (
                {"DATA_DIR": "/no"},
                r"/no/data_0.1.2_visual_toolbox_v2.parquet is missing; DATA_DIR .* bash deepeyes\.sh data data ",
            ),
            ({"DATASET": "deepeyes_chart ./gone.parquet#9"}, r"\./gone\.parquet is missing"),
        ],
    )
    def test_a_wrong_setting_or_missing_file_ends_with_one_line(
        self, sandbox: Sandbox, settings: dict[str, str], message: str
    ) -> None:
        assert_refused(sandbox.run("deepeyes.sh", "train", **settings), message)
        assert sandbox.calls == []

    def test_without_swift_it_says_how_to_get_it(self, sandbox: Sandbox) -> None:
        assert_refused(sandbox.run("deepeyes.sh", PATH="/usr/bin:/bin"), r"run: bash deepeyes.sh setup")

    def test_own_dataset_as_an_argument_needs_no_official_files(self, sandbox: Sandbox) -> None:
        result = sandbox.run("deepeyes.sh", "train", "--dataset", "org/set", DATA_DIR="/no", LAYOUT="cpu")
        assert result.returncode == 0
        assert option(sandbox.calls[0]["argv"], "dataset") == ["org/set"]


@pytest.mark.parametrize("command", ["train", "rollout"])
class TestPluginSettings:
    """`DEEPEYES_*`, which swift would read when it has loaded for long."""

    @pytest.mark.parametrize("words", [("--dry-run",), ()])
    def test_a_bad_value_is_refused_in_the_plugins_own_words(
        self, sandbox: Sandbox, command: str, words: tuple[str, ...]
    ) -> None:
        result = sandbox.run("deepeyes.sh", command, *words, DEEPEYES_JUDGE="foo", DOCTOR="false")
        assert_refused(result, r"^deepeyes: DEEPEYES_JUDGE='foo': expected 'server' or 'rule'$")
        assert sandbox.calls == []

    def test_a_file_is_looked_for_from_where_the_user_is(self, sandbox: Sandbox, command: str, tmp_path: Path) -> None:
        (tmp_path / "prompt.txt").write_text("{question} {reference} {answer}")
        settings = {"DEEPEYES_JUDGE_PROMPT_MATH": "prompt.txt"}
        done = sandbox.run("deepeyes.sh", command, "--dry-run", cwd=tmp_path, **settings)
        assert done.returncode == 0, done.stderr
        assert_refused(sandbox.run("deepeyes.sh", command, "--dry-run", **settings), "expected a readable text file")

    def test_a_name_that_is_none_is_told_with_the_nearest(self, sandbox: Sandbox, command: str) -> None:
        done = sandbox.run("deepeyes.sh", command, "--dry-run", DEEPEYES_JUGDE="rule")
        assert done.returncode == 0
        assert "DEEPEYES_JUGDE is not a setting of the DeepEyes plugin; did you mean DEEPEYES_JUDGE?" in done.stderr


class TestServers:
    """Where `train` looks for rollout servers."""

    @pytest.mark.parametrize(("ports", "listed"), [("8001", ["8001", "8001"]), ("8001,8002", ["8001", "8002"])])
    def test_several_hosts_are_listed(self, sandbox: Sandbox, ports: str, listed: list[str]) -> None:
        settings = {"ROLLOUT_HOST": "10.0.0.8,10.0.0.9", "ROLLOUT_PORT": ports}
        _, argv = read_command(sandbox.run("deepeyes.sh", "train", "--dry-run", **settings).stdout)
        assert option(argv, "vllm_server_host") == ["10.0.0.8", "10.0.0.9"]
        assert option(argv, "vllm_server_port") == listed

    def test_hosts_and_ports_must_be_as_many(self, sandbox: Sandbox) -> None:
        settings = {"ROLLOUT_HOST": "10.0.0.8", "ROLLOUT_PORT": "8001,8002"}
        assert_refused(sandbox.run("deepeyes.sh", **settings), "must name as many ports as hosts")

    def test_every_one_of_them_is_waited_for(self, sandbox: Sandbox, rollout_port: str) -> None:
        dead = free_port()
        settings = {"ROLLOUT_HOST": "127.0.0.1,127.0.0.1", "ROLLOUT_PORT": f"{rollout_port},{dead}"}
        result = sandbox.run("deepeyes.sh", ROLLOUT_WAIT="1", **settings)
        assert result.returncode == 1
        assert f"the rollout server did not answer at 127.0.0.1:{dead}" in result.stderr

    @pytest.mark.parametrize("layout", ["colocate8", "one"])
    def test_without_a_server_no_host_is_given(self, sandbox: Sandbox, layout: str) -> None:
        """Swift connects to a host whatever the mode."""
        _, argv = read_command(sandbox.run("deepeyes.sh", "train", "--dry-run", LAYOUT=layout).stdout)
        assert option(argv, "vllm_mode") == ["colocate"]
        assert "--vllm_server_host" not in argv
        assert int(option(argv, "sleep_level")[0]) > 0
        assert int(option(argv, "vllm_max_model_len")[0]) > 5 * 2048
        assert sandbox.run("deepeyes.sh", "train", LAYOUT=layout).returncode == 0  # it waits for nobody

    def test_copies_of_a_large_policy_share_the_trainers_gpus(self, sandbox: Sandbox) -> None:
        settings = {"LAYOUT": "colocate8", "ROLLOUT_TENSOR_PARALLEL": "4"}
        _, argv = read_command(sandbox.run("deepeyes.sh", "train", "--dry-run", **settings).stdout)
        assert option(argv, "vllm_tensor_parallel_size") == ["4"]


class TestHeldOutRows:
    """`--val_dataset` as an argument."""

    @pytest.mark.parametrize(
        ("words", "generations", "batch"),
        [
            ((), "1", "1"),
            (("--num_generations_eval", "4"), "4", "4"),
            (("--num_generations_eval", "6"), "6", "2"),
            (("--per_device_eval_batch_size", "8"), "1", "8"),
            (("--num_generations_eval=2", "--per_device_eval_batch_size=6"), None, None),
        ],
    )
    def test_an_evaluation_batch_holds_whole_groups(
        self, sandbox: Sandbox, words: tuple[str, ...], generations: str | None, batch: str | None
    ) -> None:
        dry = sandbox.run("deepeyes.sh", "train", "--dry-run", "--val_dataset", "held_out.parquet", *words)
        _, argv = read_command(dry.stdout)
        if generations is None:
            assert not {"--num_generations_eval", "--per_device_eval_batch_size"} & set(argv)
            return
        assert option(argv, "num_generations_eval") == [generations]
        assert option(argv, "per_device_eval_batch_size") == [batch]

    def test_megatron_has_no_batch_of_its_own_for_them(self, sandbox: Sandbox) -> None:
        words = ("train", "--dry-run", "--val_dataset", "held_out.parquet")
        _, argv = read_command(sandbox.run("deepeyes.sh", *words, LAYOUT="mega8").stdout)
        assert option(argv, "num_generations_eval") == ["1"]
        assert "--per_device_eval_batch_size" not in argv

    def test_without_them_nothing_is_added(self, sandbox: Sandbox) -> None:
        assert "_eval" not in sandbox.run("deepeyes.sh", "train", "--dry-run").stdout


class TestRefusedFlags:
    """What swift 4.6 accepts, and then dies of."""

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--loss_type", "fipo"), "--loss_type fipo can't run: swift 4.6 raises at the first loss"),
            (("--loss_type=real",), "--loss_type real can't run"),
            (("--off_policy_sequence_mask_delta", "0.1"), "--off_policy_sequence_mask_delta can't run"),
            (("--async_generate", "true"), "--async_generate can't run: swift refuses it"),
            (("--async_generate",), "--async_generate can't run: swift refuses it"),
            (("--async_generate", "--save_steps", "5"), "--async_generate can't run: swift refuses it"),
            (("--temperature", "0"), "--temperature 0 gives a group of equal trajectories"),
            (("--temperature", "0.0"), "--temperature 0.0 gives"),
        ],
    )
    def test_it_is_refused_with_the_reason(self, sandbox: Sandbox, words: tuple[str, ...], message: str) -> None:
        result = sandbox.run("deepeyes.sh", "train", "--dry-run", *words)
        assert (result.returncode, result.stdout) == (1, "")
        assert message in result.stderr

    @pytest.mark.parametrize(
        "words", [("--loss_type", "dapo"), ("--temperature", "0.5"), ("--async_generate", "false")]
    )
    def test_its_neighbours_pass(self, sandbox: Sandbox, words: tuple[str, ...]) -> None:
        assert sandbox.run("deepeyes.sh", "train", "--dry-run", *words).returncode == 0

    def test_gdpo_on_a_single_weight_is_warned_of(self, sandbox: Sandbox) -> None:
        words = ("train", "--dry-run", "--scale_rewards", "gdpo")
        assert "warning: --scale_rewards gdpo" in sandbox.run("deepeyes.sh", *words).stderr
        parts = ("--reward_weights", "0", "0.8", "0.2", "1.2")
        assert "gdpo" not in sandbox.run("deepeyes.sh", *words, *parts).stderr
