"""Which option an answer picks: the rule reads only what is beyond doubt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepeyes.evaluation.picking import read_choice

VEHICLES = ["a red van", "a green bus", "a blue tram", "a white taxi"]

PICKED = [
    ("答案是A", "A"),
    ("正确答案是 C。", "C"),
    ("因此，答案选B", "B"),
    ("我选D", "D"),
    ("选项B是正确的", "B"),
    ("本题选A。", "A"),
    ("A。", "A"),
    ("（C）", "C"),
    ("$A$", "A"),
    ("$\\text{B}$", "B"),
    ("$$\\boxed{D}$$", "D"),
    ("\\boxed{\\text{C}}", "C"),
    ("I choose A", "A"),
    ("I would pick option C.", "C"),
    ("(B) is right", "B"),
    ("(B) is right.", "B"),
    ("B is correct.", "B"),
    ("Option C.", "C"),
    ("Option C is correct because the tram is blue.", "C"),
    ("Answer: B", "B"),
    ("Final Answer: (D)", "D"),
    ("**Answer:** C", "C"),
    ("The correct option is (A).", "A"),
    ('The answer is: "B"', "B"),
    ("The answer is B, a green bus.", "B"),
    ("The answer is (B) a green bus", "B"),
    ("My answer is option D", "D"),
    ("Option A: red van, no. Option B: green bus, no. Option C: blue tram. Yes.\n\nThe answer is C.", "C"),
    ("A", "A"),
    ("a", "A"),
    ("B.", "B"),
    ("B)", "B"),
    ("b) a green bus", "B"),
    ("a green bus", "B"),
    ("The answer is B because the sign says so", "B"),
    ("The answer is B since A is red", "B"),
    ("The answer should be C", "C"),
    ("Choice: D", "D"),
    ("选择C选项", "C"),
    ("答案：B", "B"),
    ("答案为(D)", "D"),
    ("答案是「C」", "C"),
    ("【答案】B", "B"),
    ("【B】", "B"),
    ("Ⓑ", "B"),
    ("B：a green bus", "B"),
    ("B、a green bus", "B"),
    ("Ｂ", "B"),
    ("答案是Ｂ", "B"),
    ("The answer is A.\nThe answer is A.", "A"),
    ("I'm torn between A and B; the answer is B", "B"),
    ("The answer is B.", "B"),
    ("Looking at the square, I choose B", "B"),
    ("I'd go with option C.", "C"),
    ("选A", "A"),
    ("我选C。", "C"),
    ("所以答案为：D", "D"),
    ("$\\boxed{C}$", "C"),
    ("Answer: **C**", "C"),
    ("我认为答案是A", "A"),
    ("根据裁剪图，车在右边。因此答案是C。", "C"),
    ("A is wrong. B is wrong. C is wrong. The answer is D.", "D"),
    ("Is it A?\nNo.\nB", "B"),
    ("答案:\nB", "B"),
    ("Since it isn't red, the answer is B.", "B"),
]
DOUBTFUL = [
    "the answer is not A but B",
    "The answer is not A, it is B.",
    "答案不是A，是B",
    "It can't be A. The answer is probably B or C",
    "The answer is A or B.",
    "The answer is either A.",
    "If the sign is red the answer is A. If it is green the answer is B.",
    "If the vehicle were red, the answer is A.",
    "Some would say the answer is A, however I think the bus is green.",
    "At first glance I choose A, but on closer look it is the green bus.",
    "I would choose A if the vehicle was red. It is green, though.",
    "Why not option A? Because it has no wheels.",
    "Is the answer A?",
    "The answer is A? No, wait.",
    "A is a van, B is a bus, C is a tram. The vehicle in the crop has rails below, so C fits.",
    "Option A is wrong.",
    "Option A is incorrect. Option B is incorrect.",
    "Not A.",
    "Not B",
    "I don't think the answer is A.",
    "I doubt that the answer is A.",
    "The answer isn't B.",
    "I did not choose A.",
    "I can't choose B",
    "It is wrong that the answer is A.",
    "The answer is A, no, B.",
    "The answer is A. Wait, no. It is the bus.",
    "The answer is A. Actually, the answer is B.",
    "A\n\nHowever, looking closer, it is a green bus.",
    "不选A",
    "我不选A。",
    "答案不可能是A",
    "排除A",
    "选A还是选B",
    "选A或B",
    "应该不是A。",
    "A不对，选C",
    "不应该选A，应该选B",
    "The person to choose A is unknown",
    "vitamin A",
    "A. a red van\nB. a green bus\nC. a blue tram\nD. a white taxi",
    "A. a red van or B. a green bus",
    "The answer is unknown. A",
    "Answer A is excluded",
    "Option A, option B and option C can be ruled out",
    "None of A, B, C",
    "Neither",
    "The blue one",
    "It's a green bus",
    "The answer is A man's vehicle",
    "I'd say B",
    "The answer would be A if the light were red.",
    "A friend told me the answer is C.",
    "The user says the answer is A. But I see a bus.",
    "It is not the case that I choose B.",
    "the answer is B?",
    "Answer: A, B",
    "Answer: A and C",
    "A, B",
    "A and B",
    "A/B",
    "A. B.",
    "The answer is option A; option B is a distractor.",
    "The answer is B or C.",
    "I choose B. The answer is C.",
    "The answer is not B.",
    "The answer is A man",
    "Some say A\nothers say B",
    "The answer is E.",
    "A\nB",
    "选择困难",
    "答案并非B",
    "A、B、C都有可能，但D最合理",
    "A is wrong. B is wrong. C is wrong. So D.",
    "The answer cannot be A.",
    "In no case, the answer is B",
    "A.\nWait, I zoom again.\nB.",
    "Which of these is wrong:\nA",
    "I choose A instead of B.",
    "(B) is right but (A) is better",
    "Based on the crop, I can't say the answer is B.",
]


class TestReadChoice:
    @pytest.mark.parametrize(("text", "letter"), PICKED)
    def test_answer_that_says_which_option_it_is_is_read(self, text: str, letter: str) -> None:
        assert read_choice(text, VEHICLES) == "ABCD".index(letter)

    @pytest.mark.parametrize("text", DOUBTFUL)
    def test_answer_that_may_mean_another_option_is_left_to_the_judge(self, text: str) -> None:
        assert read_choice(text, VEHICLES) is None

    def test_reasoning_that_names_every_option_is_read_by_its_last_sentence(self) -> None:
        reasoning = "I compare option A, B, C and D. Option A is a red van. It can't be B. If it had rails, C. "
        assert read_choice(f"{reasoning}\n\nThe answer is D.", VEHICLES) == 3
        assert read_choice(f"The answer is D. {reasoning}", VEHICLES) is None
        assert read_choice(f"{reasoning}The answer is D. {reasoning}", VEHICLES) is None

    @given(st.text(max_size=80), st.sampled_from(["", "The answer is ", "选", "I choose "]))
    def test_any_text_is_read(self, text: str, lead: str) -> None:
        assert read_choice(lead + text, VEHICLES) in (None, 0, 1, 2, 3)

    @pytest.mark.parametrize("part", ["根据", "so ", "(", "A. ", "The answer is ", "a.", "A)", "A because x "])
    def test_long_text_is_read_in_time_that_grows_with_its_length(self, part: str) -> None:
        assert read_choice(part * (30_000 // len(part)) + "x", VEHICLES) in (None, 0)
