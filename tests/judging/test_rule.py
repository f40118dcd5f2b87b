"""The judge by rule: what it pays is right."""

from __future__ import annotations

import pytest
from handed import handed
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
FIELD: list[tuple[str, str, list[str], list[str]]] = [
    (
        "Is the car black or silver?",
        "The car is silver.",
        ["silver", "Silver car"],
        ["black", "The car", "black or silver", "It is silver, not black."],
    ),
    ("Is the car black or silver?", "silver", ["The car is silver."], ["The silver one"]),
    (
        "What is the color of the woman's bag?",
        "The color of the woman's bag is brown.",
        [
            "brown",
            "It's brown.",
            "The woman's bag is brown.",
            "**brown**",
            "`brown`",
            "The answer is brown.",
            "Answer: brown",
            "ｂｒｏｗｎ．",
            "\\boxed{brown}",
        ],
        ["light brown", "not brown", "The woman's bag"],
    ),
    ("What is the color of the woman's bag?", "brown", [], ["The woman is brown"]),
    ("What is the color of the woman's bag?", "The color of the woman's bag is dark brown.", [], ["brown"]),
    ("Is the door open or closed?", "The door is closed.", ["closed"], ["The door"]),
    ("Is the tap on or off?", "The tap is off.", ["It is off."], ["on"]),
    ("Is the tap on or off?", "off", ["The tap is off"], ["on"]),
    ("Is the tap on or off?", "on", [], ["off"]),
    ("Is the cat in or on the box?", "The cat is in the box.", ["in"], ["on", "the box"]),
    (
        "Is the bus on the left or right side of the tree?",
        "The bus is on the right side of the tree.",
        ["right", "On the right side."],
        ["The tree is on the right side of the bus", "left", "side"],
    ),
    ("Is the bus on the left or right side of the tree?", "right", [], ["The tree is on the right side of the bus"]),
    ("Is the man to the left or right of the car?", "left", [], ["The car is to the left of the man"]),
    (
        "Is the kite above or below the roof?",
        "The kite is above the roof.",
        ["above"],
        ["below", "the roof is above the kite", "the roof"],
    ),
    (
        "Is there a dog?",
        "Yes, there is a dog.",
        ["Yes.", "There is a dog."],
        ["There is no dog.", "No", "Yes, there is no dog"],
    ),
    ("Is there a dog?", "Yes", ["Yes, there is a dog.", "yes!"], []),
    ("Is there a dog?", "No", ["No, it is bigger."], ["No dog", "Yes", "Not sure"]),
    ("Is there a dog?", "No, there is no dog.", ["There is no dog"], ["No, there is a dog", "There is a dog"]),
    ("Is there a dog?", "No, there is no dog in the picture.", ["There is no dog."], []),
    ("Is A greater than B?", "No", [], ["No, A is greater than B"]),
    ("Is A greater than B?", "Yes", ["Yes, A is greater."], ["Yes, A is less than B"]),
    ("Hay un gato?", "No, no hay gato.", ["No"], []),
    ("Gibt es einen Hund?", "Ja, es gibt einen Hund.", ["Ja"], []),
    ("Gibt es einen Hund?", "Nein, es gibt keinen Hund.", ["Nein."], ["Ja"]),
    ("Y a-t-il un chat ?", "Oui, il y a un chat.", ["Oui"], []),
    ("有狗吗？", "是的，有一只狗。", ["是的"], []),
    ("有狗吗？", "没有，图中没有狗。", ["没有"], ["有"]),
    ("有狗吗？", "是", [], ["否"]),
    ("有狗吗？", "否", ["否。"], []),
    ("What does the sign say?", "No entry", [], ["No"]),
    ("What is the jersey number?", "No. 7", ["7", "No.7"], ["No"]),
    ("What is the jersey number?", "7", [], ["17"]),
    (
        "How many dogs are on the grass?",
        "4",
        ["There are 4 dogs on the grass.", "Four dogs", "four"],
        ["40", "4 cats", "4 or 5", "about 4", "more than 4", "4.5", "one four"],
    ),
    ("How many dogs are on the grass?", "There are four dogs on the grass.", ["4 dogs"], ["5"]),
    ("How many dogs are on the grass?", "21", ["twenty-one"], ["twenty"]),
    ("How many dogs are on the grass?", "120", ["one hundred and twenty"], []),
    ("How many dogs are on the grass?", "12", [], ["one two"]),
    ("How many?", "1", ["one"], []),
    ("How many people?", "2", ["the two people"], []),
    (
        "What is it? (A) red (B) blue (C) green",
        "B",
        [
            "(B)",
            "b.",
            "The answer is B.",
            "The correct answer is (B) blue.",
            "Option B",
            "B: blue",
            "B) blue",
            "B - blue",
            "blue",
            "It is blue.",
            "**B**",
            "答案是B",
            "选B",
            "答案：Ｂ",
        ],
        ["option C", "red or blue", "not blue", "B. green", "A and B", "A, B", "(A) or (B)"],
    ),
    ("What is it? (A) red (B) blue (C) green", "(B) blue", ["B"], []),
    ("What is it? (A) red (B) blue (C) green", "blue", ["B"], ["C", "(C) blue"]),
    ("What is it?\nA.red\nB.blue", "B", ["B.blue"], ["A.red"]),
    ("What is it?\nA) red\nB) blue", "B", ["B) blue"], []),
    ("What is it?\nA: red\nB: blue", "A", ["A: red"], []),
    ("颜色是什么？A、红 B、蓝", "B", ["B、蓝", "蓝"], ["红"]),
    ("颜色是什么？A．红 B．蓝", "B", ["Ｂ．蓝"], []),
    ("颜色是什么？（A）红（B）蓝", "B", ["（B）"], ["（A）蓝"]),
    ("Which?", "C. tall", ["C", "tall"], ["B", "C. short", "B. tall"]),
    ("Which bar is higher, X or Y?", "Y", ["Y is higher."], ["X is higher.", "X or Y"]),
    ("Which bar is higher, A or B?", "A", ["A is higher.", "A"], ["B is higher than A", "a bar"]),
    ("Which bar is higher, A or B?", "B", [], ["B is higher than A"]),
    ("What does the shirt say?", "LOVE", ['The shirt says "LOVE".', "It says LOVE"], ["LOVELY", "HATE"]),
    ("What does the shirt say?", "NEWS", [], ["NEW"]),
    ("What does the shirt say?", "I LOVE NY", [], ["LOVE"]),
    ("What share?", "12%", ["12 %", "12 percent", "0.12"], ["12", "1.2%"]),
    ("What share?", "12", [], ["12%"]),
    ("What is the price?", "$5", ["5 dollars", "$5.00"], ["€5", "5"]),
    ("What is the price?", "$1,200", ["$1200"], []),
    ("How long?", "30 cm", ["0.3 m", "30 centimeters", "30cm"], ["30 mm", "30", "30 cm^2"]),
    ("How long?", "2 h", ["120 minutes"], []),
    ("How heavy?", "5 kg", ["5000 g"], ["5 lb", "5 K"]),
    ("How warm?", "20 °C", ["20°C"], ["20 °F"]),
    ("How fast?", "60 km/h", ["60 kmh"], ["60 mph"]),
    ("How fast?", "3 m/s", [], ["3 m/s^2", "3 m"]),
    ("How much?", "2.5 million", ["2,500,000"], ["2.5 billion", "2.5"]),
    ("How much?", "1.5k", ["1500"], []),
    ("How much?", "3,5", ["3.5"], []),
    ("How much?", "3.5", ["3,5"], []),
    ("How much?", "3,500", ["3500"], ["3.5"]),
    ("How much?", "3.50", ["3.5"], []),
    ("How much?", "-3", [], ["3"]),
    ("How much?", "−3", ["-3"], []),
    ("How much?", "3", [], ["-3"]),
    (
        "Which years?",
        "2005-2010",
        ["2005–2010", "2005 to 2010", "from 2005 to 2010"],
        ["2005, 2010", "2010", "-5", "2010-2005"],
    ),
    ("Which years?", "2005 and 2010", [], ["2005"]),
    ("Which years?", "2005, 2010", ["2005 and 2010"], ["2010, 2005"]),
    ("Which years?", "2005-06", [], ["June 2005"]),
    ("In which month?", "2005-06", ["June 2005"], ["July 2005", "2005"]),
    ("In which month?", "June 2005", ["2005-06"], []),
    ("On which date?", "2020-03-05", ["March 5, 2020", "5 March 2020"], ["March 6, 2020", "May 3, 2020"]),
    ("On which date?", "3/4", ["3/4"], ["0.75", "4/3"]),
    ("What is the score?", "2:1", ["2:1"], ["2", "1:2"]),
    ("What time?", "10:30", ["10:30"], ["10.5"]),
    ("What time?", "10:30 AM", [], ["10:30 PM", "10:30"]),
    ("哪一年？", "2015年", ["2015"], ["2016年"]),
    ("什么时候？", "2015年3月", ["2015-03"], []),
    ("狗是什么颜色？", "狗是黑色的。", ["黑色", "黑"], ["白色", "不是黑色"]),
    ("狗是什么颜色？", "黑白色", [], ["黑色"]),
    ("狗是什么颜色？", "黑色", [], ["黑白色"]),
    ("桌子上的狗是什么颜色？", "黑色", [], ["桌子是黑色的"]),
    ("狗在左边还是右边？", "狗在左边。", ["左边"], ["右边", "狗"]),
    ("有几个人？", "三个人", ["3"], []),
    ("有几个人？", "3", ["三个人", "三"], []),
    ("有几个人？", "3个人", [], ["4", "3只狗"]),
    ("有几个人？", "十二个", ["12"], []),
    ("写着什么？", "停", ["停。"], []),
    ("写着什么？", "停车", [], ["停"]),
    ("写着什么？", "禁止停车", [], ["停车"]),
    (
        "Welche Farbe hat das Auto?",
        "Das Auto ist grün.",
        ["grün", "Das Auto ist grün."],
        ["Das Auto", "rot", "nicht grün"],
    ),
    ("Ist das Licht an oder aus?", "Das Licht ist an.", ["an"], ["aus"]),
    ("¿Está el perro a la izquierda o a la derecha?", "El perro está a la derecha.", ["derecha"], ["izquierda"]),
    ("Le chien est-il à gauche ou à droite ?", "Le chien est à droite.", ["à droite"], ["gauche"]),
    ("Who holds it?", "The girl holds it.", ["girl"], ["The boy"]),
    ("Where is the cat?", "on the sofa", ["sofa"], ["under the sofa"]),
    ("What is it?", "a red and white cup", [], ["red cup"]),
    ("What is it?", "red", [], ["red and white"]),
    ("What is it?", "cup", ["a cup"], ["The cup is on the table", "no cup", "", "?"]),
    ("What is it?", "a cup", ["cup"], []),
    ("What is it?", "his hat", [], ["her hat"]),
    ("What colour?", "blue", [], ["It's either blue or green"]),
    (
        "What colour is the cup on the table?",
        "white",
        ["The cup is white", "The cup on the table is white."],
        ["The table is white", "The cup on the white table"],
    ),
    ("What is the brand?", "Coca-Cola", ["coca cola"], []),
    ("What is the brand?", "iPhone 12", [], ["iPhone", "iPhone 13"]),
    ("What is it?", "Vitamin A", [], ["Vitamin"]),
    ("What is it?", "Vitamin C", [], ["Vitamin"]),
    ("What is it?", "World War I", [], ["World War"]),
    ("What is it?", "Model S", [], ["Model"]),
    ("What does it say?", "Turn on", [], ["turn"]),
    ("What does it say?", "turn", [], ["turn on"]),
    ("What is it?", "side dish", [], ["dish"]),
    ("What is it?", "tin can", [], ["tin"]),
    ("What is it?", "cup of tea", ["a cup of tea"], ["tea cup", "cup"]),
    ("How hot?", "5000", [], ["5 K"]),
    ("What is it?", "to be or not to be", [], ["be"]),
    ("What is it?", "up to 5", [], ["5"]),
    ("What is it?", "< 5", [], ["5"]),
    ("What is it?", "5-7", [], ["7"]),
    ("What is it?", "5x", [], ["5"]),
    ("What is it?", "4th", [], ["4"]),
    ("What is it?", "12a", [], ["12"]),
    ("What is it?", "3D", [], ["3"]),
    ("What is it?", "H2O", [], ["HO"]),
    ("What is it?", "CO2", [], ["CO"]),
    ("What is it?", "A4", [], ["4"]),
    ("What is it?", "Route 66", [], ["66", "Route 6"]),
    ("What is it?", "1.2.3", [], ["1.2"]),
    ("What is it?", "192.168.0.1", [], ["192"]),
    ("What is it?", "+1 555 1234", [], ["555 1234"]),
    ("What is it?", "C++", [], ["C"]),
    ("What is it?", "C#", [], ["C"]),
    ("What is it?", "a@b.com", [], ["b.com"]),
    ("What is it?", "AT&T", [], ["AT T"]),
    ("What is it?", "M&M", [], ["M"]),
    ("Is it a or b?", "b", [], ["a"]),
    ("Who?", "Mr. Smith", [], ["Smith"]),
    ("What?", "no smoking", [], ["smoking"]),
    ("What?", "smoking", [], ["no smoking"]),
    ("What?", "not available", [], ["available"]),
    ("Is it empty or full?", "It is not full.", [], ["full"]),
    ("Does he wear a hat?", "He does not wear a hat.", [], ["wear a hat"]),
    ("Does he wear a hat?", "He wears a hat.", [], ["He does not wear a hat"]),
    (
        "What is left?",
        "2 apples and 3 pears",
        ["two apples and three pears"],
        ["3 pears", "2 apples", "2 pears and 3 apples"],
    ),
    ("谁？", "小明和小红", [], ["小明"]),
    ("颜色？", "浅蓝色", [], ["蓝色"]),
    ("颜色？", "蓝色", [], ["浅蓝色"]),
    ("是不是红色？", "不是", [], ["是"]),
    ("是不是红色？", "是", [], ["不是"]),
    ("多少？", "一百二十", ["120"], []),
    ("多少？", "3万", ["30000"], ["3"]),
    ("多少？", "百分之五", [], ["5"]),
    ("多少？", "5％", ["5%"], ["5"]),
    ("Is it red or blue or green?", "green", [], ["blue"]),
    ("Is it red, blue or green?", "green", ["green"], ["red", "red green"]),
    ("Is it red, blue or green?", "It is green.", [], ["It is red, green"]),
    ("How many cars are red and how many blue?", "3 red and 2 blue", [], ["2", "3 blue and 2 red"]),
    ("What is the total of A and B?", "12", [], ["A is 12"]),
    ("Who is taller, Tom or Ann?", "Tom", ["Tom is taller."], ["Ann is taller", "Tom is shorter"]),
    ("Who is taller, Tom or Ann?", "Ann", [], ["Tom is taller than Ann"]),
    ("What is the sum?", "0.5", ["1/2", "50%"], []),
    ("What is the sum?", "1/2", [], ["0.5"]),
    ("What is the value?", "10^3", [], ["10"]),
    ("What is the value?", "10³", [], ["103"]),
    ("What is the value?", "5 m²", [], ["5 m"]),
    ("What is the value?", "-5 °C", [], ["5 °C"]),
    ("What is the value?", "5±1", [], ["5"]),
    ("What is the value?", "~5", [], ["5"]),
    ("What is the value?", "5", [], ["~5", "> 5", "5 = 6", "5, no 6", "5 (or 6)", "not 5", "5 not"]),
    ("What is the value?", ">5", [], ["5"]),
    ("What is the value?", "$5 million", ["5 million dollars", "$5,000,000"], ["$5"]),
    ("What is the value?", "5 thousand", ["5000"], []),
    ("What is the value?", "two thousand and five", ["2005"], []),
    ("What is the value?", "1984", [], ["84"]),
]
"""Question, reference, answers that agree, answers that do not: one kind a line."""

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

    @pytest.mark.parametrize(("question", "reference", "right", "wrong"), FIELD)
    def test_answers_of_the_field(self, question: str, reference: str, right: list[str], wrong: list[str]) -> None:
        assert [answer for answer in wrong if rule_verdict(question, reference, answer)] == []
        assert [answer for answer in right if not rule_verdict(question, reference, answer)] == []

    @pytest.mark.parametrize("case", handed("cases/rule_pairs.jsonl"))
    def test_handed_pair_that_differs_is_not_paid(self, case: dict[str, str]) -> None:
        if not case["agrees"]:
            assert not rule_verdict(case["question"], case["reference"], case["answer"])

    def test_of_the_handed_pairs_that_agree_few_are_refused(self) -> None:
        cases = [case.values[0] for case in handed("cases/rule_pairs.jsonl")]
        if cases == [None]:
            pytest.skip("shared/cases is not beside this checkout")
        found = [rule_verdict(one["question"], one["reference"], one["answer"]) for one in cases if one["agrees"]]
        assert found.count(False) <= 8

    @pytest.mark.parametrize(
        ("reference", "answer"), [("AB", "ab"), ("5 MW", "5 mW"), ("3X", "3x"), ("Delta", "delta")]
    )
    def test_in_mathematics_capitals_count(self, reference: str, answer: str) -> None:
        assert not rule_verdict("?", reference, answer, exact_case=True)
        assert rule_verdict("?", reference, reference, exact_case=True)

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
            assert "bottle" not in said[: said.index("left")]  # which would be the bottle to the left
            assert not {"right", "not", "no", "yes", "or"} & {*words}

    @given(st.lists(st.sampled_from(["car", "person", "left", "right", *FILLERS]), max_size=8))
    def test_words_about_yes_or_no_that_are_right_do_not_contradict(self, words: list[str]) -> None:
        if rule_verdict(*NOT_LEFT, " ".join(words)):
            assert not {"right", "yes", "or"} & {*words}
            assert words.count("no") == 1
            assert "not" in words or not {"car", "person", "left"} & {*words}
