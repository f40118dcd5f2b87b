"""The judge by rule: what it pays is right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepeyes.judging.rule import rule_verdict

SIDE = ("Is the dog to the left or right of the bottle?", "The dog is to the left of the bottle.")
NOT_LEFT = ("Is the car on the left side of the person?", "No, the car is not on the left side of the person.")
IS_RIGHT = ("Is the oven on the right side of the orange?", "Yes, the oven is on the right side of the orange.")
SIGN = ("What does the sign say? (A) Stop (B) Yield (C) Exit", "B")
RULED = [
    *((*SIDE, answer, True) for answer in ("left", "Left.", "to the left", "The dog is on the left of the bottle")),
    *((*SIDE, answer, False) for answer in ("right", "left or right", "right, left", "not left", "It isn't left")),
    *(
        (*SIDE, answer, False)
        for answer in ("dog", "bottle", "The bottle is to the left of the dog", "maybe left", "?")
    ),
    *((*NOT_LEFT, answer, True) for answer in ("No", "no.", "No, it is not on the left")),
    *((*NOT_LEFT, answer, False) for answer in ("Yes", "Yes and no", "No. Actually, yes", "not", "left", "The car")),
    (*NOT_LEFT, "No, the car is on the left side of the person.", False),
    (*NOT_LEFT, "The car is on the left side of the person.", False),
    *((*IS_RIGHT, answer, True) for answer in ("Yes", "yes!", "Yes, it is", "Yes, on the right side of the orange")),
    *((*IS_RIGHT, answer, False) for answer in ("No", "Yes, on the left", "Yes, it isn't", "right", "Yes or no")),
    *((*SIGN, answer, True) for answer in ("B", "b", "(B)", "B.", "Yield", "B. Yield", "(B) yield.")),
    *((*SIGN, answer, False) for answer in ("A", "B. Stop", "A or B", "A, B", "Stop", "B or C", "not B", "(B) or (C)")),
    (SIGN[0], "Yield", "B", True),
    (SIGN[0], "(B) Yield", "C. Yield", False),
    ("What does it say?", "B. Yield", "B. Stop", False),
    ("Which? A. red B. blue", "B. blue", "blue", True),
    ("What colour is the cup?", "The cup is white.", "white", True),
    ("What colour is the cup?", "The cup is white.", "It is white", True),
    ("What colour is the cup?", "The cup is white.", "cup", False),
    ("What colour is the cup?", "The cup is white.", "white and blue", False),
    ("What colour is the cup?", "The cup is white.", "white/blue", False),
    ("What colour is the cup?", "The cup is red and white.", "red", False),
    ("What colour is the cup?", "red and white", "red or white", False),
    ("Is the small cup or the large cup on the table?", "The large cup is on the table.", "the large one", False),
    ("Is the small cup or the large cup on the table?", "The large cup is on the table.", "large", True),
    ("Is the small cup or the large cup on the table?", "The large cup is on the table.", "the cup", False),
    ("Is he with or without a hat?", "without a hat", "with a hat", False),
    ("Is he with or without a hat?", "without a hat", "hat", False),
    ("How many dogs are there?", "3", "three", True),
    ("How many dogs are there?", "three", "3.", True),
    ("How many dogs are there?", "3", "30", False),
    ("How many dogs are there?", "None", "one", False),
    ("How much?", "1,000", "1000", True),
    ("How much?", "3.5", "5.3", False),
    ("How much?", "3.5", "35", False),
    ("How much?", "-5", "5", False),
    ("How much?", "5%", "5", False),
    ("How much?", "$5", "€5", False),
    ("How long?", "12 cm", "12 m", False),
    ("How long?", "12 cm", "12 CM", True),
    ("Where is the ball?", "in the box", "on the box", False),
    ("Whose bag is it?", "his bag", "her bag", False),
    ("What does the sign say?", "No parking", "No", False),
    ("What is it?", "white", "", False),
]
FILLERS = ["the", "is", "to", "of", "on", "side", "and", "it", "or", "not", "no", "yes"]


class TestRuleVerdict:
    """The judge by rule calls right only what says the same; what it is unsure of is wrong."""

    @pytest.mark.parametrize(("question", "reference", "answer", "right"), RULED)
    def test_answer_is_right_if_it_says_the_same(
        self,
        question: str,
        reference: str,
        answer: str,
        right: bool,  # noqa: FBT001
    ) -> None:
        assert rule_verdict(question, reference, answer) is right

    @given(st.text(), st.text(min_size=1).filter(str.strip))
    def test_reference_itself_is_right(self, question: str, reference: str) -> None:
        assert rule_verdict(question, reference, f" {reference}.")

    @given(st.text(), st.text(), st.text())
    def test_any_texts_are_judged_without_error(self, question: str, reference: str, answer: str) -> None:
        assert rule_verdict(question, reference, answer) in (True, False)

    @given(st.lists(st.sampled_from(["dog", "bottle", "left", "right", *FILLERS]), max_size=8))
    def test_words_about_a_side_that_are_right_do_not_contradict(self, words: list[str]) -> None:
        if rule_verdict(*SIDE, " ".join(words)):
            said = [word for word in words if word in ("dog", "left", "bottle")]
            assert said in (["left"], ["dog", "left"], ["left", "bottle"], ["dog", "left", "bottle"])
            assert not {"right", "not", "no", "yes", "or"} & {*words}

    @given(st.lists(st.sampled_from(["car", "person", "left", "right", *FILLERS]), max_size=8))
    def test_words_about_yes_or_no_that_are_right_do_not_contradict(self, words: list[str]) -> None:
        if rule_verdict(*NOT_LEFT, " ".join(words)):
            assert not {"right", "yes", "or"} & {*words}
            assert words.count("no") == 1
            assert "not" in words or not {"car", "person", "left"} & {*words}
