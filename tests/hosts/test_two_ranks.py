"""Two ranks train as one: on one host, and on two hosts that are network namespaces, with the judge on a third."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import pytest
from world import PATIENCE, Cable, Place, Story, tell

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]


IP = shutil.which("ip")


class Ranks:
    """What must be so wherever the ranks are."""

    def test_both_end_with_equal_weights_that_changed(self, story: Story) -> None:
        first = [(story.folder / "hashes" / f"1-{rank}").read_text() for rank in range(2)]
        second = [(story.folder / "hashes" / f"2-{rank}").read_text() for rank in range(2)]
        assert first[0] == first[1]
        assert second[0] == second[1] != first[0]

    def test_a_group_split_over_ranks_gets_the_advantages_of_one_process(self, story: Story) -> None:
        table = story.lines("output/*/completions.jsonl")[0]
        rewards, advantages = table["DeepEyesReward"], table["advantages"]
        assert sorted(rewards) == [0, 2, 2, 2]
        mean, spread = statistics.mean(rewards), statistics.stdev(rewards)
        assert advantages == pytest.approx([(reward - mean) / (spread + 1e-4) for reward in rewards], abs=1e-3)

    def test_each_question_is_asked_once_a_rank(self, story: Story) -> None:
        asked = Counter(tuple(one) for one in story.asked if not one[1].startswith("late"))
        assert set(asked.values()) == {1}
        assert {("rank0", "crimson"), ("rank1", "crimson"), ("rank1", "azure")} <= set(asked)

    def test_traces_of_both_join_to_whole_groups(self, story: Story) -> None:
        files = list(story.folder.glob("traces/trajectories-*.jsonl"))
        assert len(files) == 2
        groups = defaultdict(list)
        for line in story.lines("traces/trajectories-*.jsonl"):
            groups[line["step"], line["prompt_id"]].append(line["score"]["total"])
        assert sorted(groups[min(groups)]) == [0, 2, 2, 2]

    def test_a_judge_that_one_rank_loses_ends_all_of_it_with_its_error(self, story: Story) -> None:
        assert 0 not in story.stopped.status
        assert "no judge answered for" in story.stopped.said[1]
        assert not list(story.folder.glob("output/*/checkpoint-2"))

    def test_the_next_start_goes_on_from_the_checkpoint(self, story: Story) -> None:
        assert story.resumed.status == (0, 0), story.resumed.said[0][-3000:]
        steps = {line.get("global_step/max_steps") for line in story.lines("resumed/*/logging.jsonl")}
        assert steps <= {"2/2", None}


class TestOneHost(Ranks):
    """Both processes on this machine."""

    @pytest.fixture(scope="class")
    @staticmethod
    def story(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
        return tell(tmp_path_factory.mktemp("ranks"), tiny_model, [Place(), Place()], Place(), Cable())


def why_no_namespaces() -> str:
    """Says what hinders hosts as network namespaces; empty where nothing does."""
    if IP is None:
        return "no `ip` program (iproute2)"
    if os.geteuid():
        return "network namespaces want root"
    done = subprocess.run([IP, "netns", "add", "deepeyes-try"], capture_output=True, text=True, check=False)
    subprocess.run([IP, "netns", "delete", "deepeyes-try"], capture_output=True, check=False)
    return f"no network namespaces: {done.stderr.strip()}" if done.returncode else ""


NO_NAMESPACES = why_no_namespaces()


def ip(*words: str) -> None:
    subprocess.run([str(IP), *words], check=True, capture_output=True)


@pytest.fixture(scope="class")
def hosts() -> Iterator[dict[str, str]]:
    """Three hosts, each with a cable to the two others: the judge and two that train."""
    names = {name: f"deepeyes-{os.getpid()}-{name}" for name in ("judge", "one", "two")}
    cables = [("judge", "one", "10.213.1"), ("judge", "two", "10.213.2"), ("one", "two", "10.213.3")]
    try:
        for name in names.values():
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        for left, right, net in cables:
            ends = (f"to-{right}", f"to-{left}")
            ip(
                "-n",
                names[left],
                "link",
                "add",
                ends[0],
                "type",
                "veth",
                "peer",
                "name",
                ends[1],
                "netns",
                names[right],
            )
            for number, (host, end) in enumerate(zip((left, right), ends, strict=True), 1):
                ip("-n", names[host], "address", "add", f"{net}.{number}/24", "dev", end)
                ip("-n", names[host], "link", "set", end, "up")
        yield names
    finally:
        for name in names.values():
            subprocess.run([str(IP), "netns", "delete", name], capture_output=True, check=False)


@pytest.mark.lengthy
@pytest.mark.skipif(bool(NO_NAMESPACES), reason=NO_NAMESPACES or "not skipped")
class TestThreeHosts(Ranks):
    """The judge on one host, a process on each of two others; the cable between judge and second is pulled."""

    @pytest.fixture(scope="class")
    @staticmethod
    def story(hosts: dict[str, str], tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
        def place(name: str, address: str, other: str) -> Place:
            settings = (("GLOO_SOCKET_IFNAME", f"to-{other}"),)
            return Place(("ip", "netns", "exec", hosts[name]), address, settings)

        ranks = [place("one", "10.213.3.1", "two"), place("two", "10.213.3.2", "one")]
        server = Place(("ip", "netns", "exec", hosts["judge"]), "10.213.{net}.1")
        return tell(
            tmp_path_factory.mktemp("hosts"),
            tiny_model,
            ranks,
            server,
            Cable("ip link set to-two down", lambda: ip("-n", hosts["judge"], "link", "set", "to-two", "up")),
        )

    def test_it_ends_within_its_patience(self, story: Story) -> None:
        """Of a run of half a minute that waits for the judge as long as it may, and not for a peer that is gone."""
        assert story.stopped.seconds < story.resumed.seconds + PATIENCE + 60
