"""What is asked: questions with their right answers, and the order in which their options are shown (pure)."""

from __future__ import annotations

import random
import string
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from deepeyes.evaluation.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LETTERS = string.ascii_uppercase
MESSAGE_CHARS = 300  # of what is wrong with a row

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the original image."""


class Kind(str, Enum):
    """How an answer is read.

    `choice`: it names an option. `open`: it is compared with the reference. `yesno`: it says yes or no. `box`: it holds
    four numbers, and is right from an intersection over union of 0.5.
    """

    CHOICE = "choice"
    OPEN = "open"
    YESNO = "yesno"
    BOX = "box"


@dataclass(frozen=True)
class Item:
    """A question with its right answer.

    Attributes:
        id: Unique within the benchmark.
        group: Shared by rows that ask the same question with its options in another order.
        category: What accuracy is reported by.
        question: Without options and format instructions.
        reference: The right option, or the reference answer.
        load: Returns the image in a form that `deepeyes.playing.pictures` takes, or a list of `pictures` images; raises
            where there is none.
        options: The options, none for a free answer.
        right: Place of the right option.
        row: The dataset row, its images left out, where the benchmark is in this project's schema.
        kind: How an answer is read.
        targets: Boxes of what the question is about, where the benchmark has them.
        pictures: Number of its images.
    """

    id: str
    group: str
    category: str
    question: str
    reference: str
    load: Callable[[], Any]
    options: tuple[str, ...] = ()
    right: int = 0
    row: Mapping[str, Any] | None = None
    kind: Kind = Kind.CHOICE
    targets: tuple[Box, ...] = ()
    pictures: int = 1


@dataclass(frozen=True)
class BadRow:
    """A row that can't be asked: where it is, and what is wrong with it."""

    where: str
    why: str


@dataclass
class Bench:
    """A benchmark.

    Attributes:
        name: What it is called.
        items: Its questions.
        bad: The rows that are none.
        cycled: Whether its file already shows the options in every order.
        published: Rows that it was published with, where that is known.
        layout: Format of its file, or `folders`.
    """

    name: str
    items: list[Item] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    cycled: bool = False
    published: int | None = None
    layout: str = ""

    def add(self, where: str, make: Callable[..., Item], *arguments: Any) -> None:
        """Adds the item that `make` returns for `arguments`, or notes why it can't."""
        try:
            item = make(*arguments)
        except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
            reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
            texts = (text[:MESSAGE_CHARS].encode(errors="replace").decode() for text in (where, reason))
            self.bad.append(BadRow(*texts))
        else:
            self.items.append(item)

    def finish(self) -> Bench:
        """Moves repeated ids to the bad rows.

        Raises:
            BenchError: No question is left.
        """
        seen: Counter[str] = Counter()
        kept = []
        for item in self.items:
            seen[item.id] += 1
            if seen[item.id] > 1:
                self.bad.append(BadRow(item.id, "this id stood before; ids must be unique"))
            else:
                kept.append(item)
        self.items = kept
        if not kept:
            first = "".join(f"; the first: {row.where}: {row.why}" for row in self.bad[:1])
            raise BenchError(f"{self.name}: found no question that can be asked ({len(self.bad)} bad rows{first})")
        return self

    def note(self) -> str | None:
        """Says so where the number of questions is not the published one."""
        if self.published in (None, len(self.items)):
            return None
        return f"{self.name} was published with {self.published} rows; {len(self.items)} of them can be asked here"

    def fixed_letter(self) -> str | None:
        """Returns the one letter that all right options have in the file's own order, or None."""
        letters = {LETTERS[item.right] for item in self.items if item.options}
        return letters.pop() if len(letters) == 1 and len(self.items) > 1 else None


def text_of(value: object, name: str) -> str:
    """Returns a text without the space around it; a number is written out.

    Raises:
        ValueError: It is none, is blank, or was not UTF-8.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value:  # noqa: PLR0124 - not NaN
        value = f"{value:.15g}"
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is {value!r:.80}; expected a text")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{name} is {value!r:.80}; expected UTF-8")
    return value.strip()


def options_of(values: Sequence[object]) -> tuple[str, ...]:
    """Returns options as texts.

    Raises:
        ValueError: There are fewer than two, too many for letters, or two that are the same.
    """
    options = tuple(text_of(value, "an option") for value in values)
    if not 1 < len(options) <= len(LETTERS):
        raise ValueError(f"{len(options)} options; expected 2 to {len(LETTERS)}")
    if len({option.casefold() for option in options}) < len(options):
        raise ValueError(f"options {options!r:.200} repeat; expected different ones")
    return options


def place_of(letter: object, count: int) -> int:
    """Turns the letter of an option into its place.

    Raises:
        ValueError: It is the letter of none.
    """
    text = str(letter).strip().strip("().").upper()
    place = LETTERS.find(text) if len(text) == 1 else -1
    if not 0 <= place < count:
        raise ValueError(f"the right option is {letter!r:.40}; expected a letter from A to {LETTERS[count - 1]}")
    return place


def is_given(value: object) -> bool:
    """Tells whether a cell holds something; a missing one is None, NaN (which does not equal itself) or blank."""
    return value is not None and value == value and bool(str(value).strip())  # noqa: PLR0124 - NaN, see above


def orders(item: Item, how: str, seed: int, sample: int) -> list[tuple[int, ...]]:
    """Returns the orders in which an item's options are shown, one for each time that it is asked.

    Args:
        item: With or without options.
        how: `shuffle`: one order, drawn from the seed, the item's id and the sample. `cycle`: as many as there are
            options, so that the right one stands once at each letter. `keep`: one, as in the file.
        seed: Of the run.
        sample: Number of the sample.

    Raises:
        ValueError: `how` is none of the three.
    """
    places = list(range(len(item.options)))
    if how == "shuffle":
        random.Random(f"{seed} {item.id} {sample}").shuffle(places)  # noqa: S311 - no secret
        return [tuple(places)]
    if how == "cycle":
        return [tuple(places[shift:] + places[:shift]) for shift in places] or [()]
    if how == "keep":
        return [tuple(places)]
    raise ValueError(f"how is {how!r}; expected shuffle, cycle or keep")


def categories_of(record: Mapping[str, Any]) -> list[str]:
    """Returns the categories of a question: one, but in POPE, where VLMEvalKit's file lists them with commas."""
    given = str(record["category"])
    return [name.strip() for name in given.split(",")] if record["kind"] == Kind.YESNO.value else [given]
