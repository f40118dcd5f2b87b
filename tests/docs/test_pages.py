"""The pages in two languages: each has its twin, which says the same, and their links lead somewhere."""

from __future__ import annotations

import re

import pytest
from pages import (
    EVERY,
    PAIRS,
    PATHS,
    PROJECT,
    Page,
    comments,
    inline_code,
    split_commands,
    twin_of,
    without_comments,
    without_labels,
)

CHINESE_LETTER = re.compile(r"[\u4e00-\u9fff]")
ENGLISH_WORDS = re.compile(r"\b[A-Za-z]{2,} [a-z]{2,}\b")
LONGEST_README = 130

both = pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=lambda page: page.name)
every = pytest.mark.parametrize("page", EVERY, ids=lambda page: page.name)


def untranslated(page: Page) -> list[tuple[str, str]]:
    """Give the code blocks without what a translation changes in them: comments, and the labels of a diagram."""
    return [
        (language, without_labels(block) if language == "mermaid" else without_comments(block))
        for language, block in page.blocks
    ]


class TestReader:
    """How the tests read a page."""

    def test_commands_are_split_at_operators_and_variables(self) -> None:
        first, second = split_commands("A=1 bash x.sh --to 'b c' | tee log")
        assert (first.variables, first.words) == ({"A": "1"}, ["bash", "x.sh", "--to", "b c"])
        assert second.words == ["tee", "log"]

    def test_a_number_sign_inside_a_word_is_no_comment(self) -> None:
        assert comments("x DATA#9  # nine\n") == ["# nine"]
        assert without_comments("x DATA#9  # nine\n") == "x DATA#9"


class TestTwins:
    """Each page has the other language, in the same order."""

    @pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
    def test_every_page_has_its_twin(self, path: object) -> None:
        twin = twin_of(path)
        assert twin.is_file(), f"{path} has no {twin.name}"

    @both
    def test_headings_have_the_same_levels(self, english: Page, chinese: Page) -> None:
        assert english.headings
        assert [level for level, _ in chinese.headings] == [level for level, _ in english.headings]

    @both
    def test_code_is_the_same_but_for_comments_and_labels(self, english: Page, chinese: Page) -> None:
        assert untranslated(chinese) == untranslated(english)

    @both
    def test_tables_have_the_same_rows_and_columns(self, english: Page, chinese: Page) -> None:
        shapes = [[[len(row) for row in table] for table in page.tables] for page in (english, chinese)]
        assert shapes[1] == shapes[0]

    @both
    def test_each_section_names_the_same_code(self, english: Page, chinese: Page) -> None:
        for one, other in zip(english.sections, chinese.sections, strict=True):
            assert set(inline_code(other)) == set(inline_code(one))

    @both
    def test_settings_are_the_same(self, english: Page, chinese: Page) -> None:
        names = [set(re.findall(r"DEEPEYES_\w+", page.text)) for page in (english, chinese)]
        assert names[1] == names[0]

    @both
    def test_numbers_in_tables_are_the_same(self, english: Page, chinese: Page) -> None:
        numbers = [
            [sorted(re.findall(r"\d+(?:\.\d+)?", " ".join(row))) for table in page.tables for row in table]
            for page in (english, chinese)
        ]
        assert numbers[1] == numbers[0]

    @both
    def test_comments_and_diagrams_are_translated(self, english: Page, chinese: Page) -> None:
        assert not [note for _, block in english.blocks for note in comments(block) if CHINESE_LETTER.search(note)]
        for language, block in chinese.blocks:
            labels = re.findall(r'"[^"\n]*"', block) if language == "mermaid" else []
            for note in comments(block) + labels:
                plain = re.sub(r"<br/>|&lt;.*?&gt;|`[^`]*`", " / ", note)
                assert CHINESE_LETTER.search(note) or not ENGLISH_WORDS.search(plain), note


class TestReadme:
    """The first screen."""

    def test_each_links_to_the_other(self) -> None:
        assert "README_zh.md" in Page(PROJECT / "README.md").links
        assert "README.md" in Page(PROJECT / "README_zh.md").links

    @pytest.mark.parametrize("name", ["README.md", "README_zh.md"])
    def test_it_is_short(self, name: str) -> None:
        assert len(Page(PROJECT / name).text.splitlines()) <= LONGEST_README

    @pytest.mark.parametrize("suffix", ["", "_zh"])
    def test_it_leads_to_every_page_of_its_language(self, suffix: str) -> None:
        links = set(Page(PROJECT / f"README{suffix}.md").links)
        pages = {page.name for page in EVERY if page.path.parent == PROJECT / "docs"}
        assert {name for name in pages if name.endswith("_zh.md") == bool(suffix)} <= links


class TestLinks:
    @every
    def test_relative_links_lead_somewhere(self, page: Page) -> None:
        for link in (link for link in page.links if not re.match(r"https?://", link)):
            name, _, anchor = link.partition("#")
            target = Page(page.path.parent / name) if name else page
            assert target.path.is_file(), link
            assert not anchor or anchor in target.anchors, link

    @every
    def test_pages_link_to_pages_of_their_own_language(self, page: Page) -> None:
        """But for the link to the twin, at the top of README."""
        chinese = page.path.stem.endswith("_zh")
        twins = {twin_of(page.path).name}
        pages = [link.partition("#")[0] for link in page.links if link.partition("#")[0].endswith(".md")]
        for name in pages:
            file = (page.path.parent / name).name
            has_twin = twin_of(page.path.parent / name).is_file()
            assert file in twins or not has_twin or file.endswith("_zh.md") == chinese, name
