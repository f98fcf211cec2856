"""Rewriters: the prompt and its parser against what the paper lays down, and rules that keep what a caption tells."""

from __future__ import annotations

import pytest

from binderclip.curate.laclip_rewriter import ARROW, InContextRewriter, RuleRewriter
from binderclip.errors import InputError

pytestmark = pytest.mark.system("laclip")

PAIRS = [(f"source {i}", f"target {i}") for i in range(16)]


def echo(answers: list[str], heard: list):
    def generate(prompts, **options):
        heard.append((list(prompts), options))
        return [answers[i % len(answers)] for i in range(len(prompts))]

    return generate


def test_the_prompt_holds_three_distinct_pairs_and_the_parser_reads_line_8() -> None:
    rewriter = InContextRewriter(echo([""], []), PAIRS)
    lines = rewriter.prompt("a dog => runs\nfast").split("\n")
    assert len(lines) == 9
    assert lines[1::2] == [""] * 4
    assert len({*lines[2:8:2]}) == 3
    assert {*lines[2:8:2]} <= {f"{a} {ARROW} {b}" for a, b in PAIRS}
    assert lines[8] == "a dog -> runs fast =>"
    completion = " a hound sprints \n\nanother caption => its target\n"
    assert rewriter.parse("\n".join(lines), completion) == "a hound sprints"
    assert rewriter.parse("\n".join(lines), "\nthe next line") == ""
    assert rewriter.parse("too short", "") == ""
    assert {rewriter.prompt("a dog", k) for k in range(8)} != {rewriter.prompt("a dog")}  # other examples each time
    assert rewriter.prompt("a dog", 3) == InContextRewriter(echo([""], []), PAIRS).prompt("a dog", 3)


def test_an_empty_completion_gives_the_original_and_is_counted() -> None:
    heard: list = []
    rewriter = InContextRewriter(echo([" said so", " \n"], heard), PAIRS)
    assert rewriter.rewrite(["a cat", "a dog"], 2) == [["said so", "a cat"], ["said so", "a dog"]]
    assert rewriter.fallbacks == 2
    assert heard[0][1] == {"temperature": 0.9, "top_p": 0.95, "max_new_tokens": 77}
    assert rewriter.rewrite([], 3) == []
    with pytest.raises(InputError, match="0 completions of 1 prompts"):
        InContextRewriter(lambda prompts, **_: [], PAIRS).rewrite(["a"], 1)


def test_two_captions_of_an_image_serve_as_source_and_target() -> None:
    images = [[f"image {i} caption {k}" for k in range(5)] for i in range(4)]
    rewriter = InContextRewriter(echo([""], []), images, captions=True)
    seen = set()
    for k in range(40):
        for line in rewriter.prompt("a dog", k).split("\n")[2:8:2]:
            source, target = line.split(f" {ARROW} ")
            assert source[:7] == target[:7]
            assert source != target
            seen.add((source, target))
    assert len(seen) > 40  # of 4 x 20
    for few in (PAIRS[:2], [("alone",)] * 3, ["text"] * 3):
        with pytest.raises(InputError, match="of two captions each"):
            InContextRewriter(echo([""], []), few)


def test_a_prompt_that_is_too_long_is_cut_and_still_ends_in_an_arrow() -> None:
    words = InContextRewriter(echo([" short"], []), PAIRS)
    prompt = words.prompt("word " * 500)
    assert prompt.endswith("word =>")
    assert len(words.encode(prompt)) == 392  # 390 and the two marks of the arrow
    letters = InContextRewriter(echo([" short"], []), PAIRS, encode=list, decode="".join, window=200)
    assert len(letters.prompt("w" * 500)) == 190 + len(" =>")
    assert words.rewrite(["word " * 500], 1) == [["short"]]


def test_rules_say_the_same_in_other_words() -> None:
    rules = RuleRewriter()
    listed = "two red circles, an orange star and a blue ring"
    synonyms, order, voice, drop = rules.rewrite([listed], 4)[0]
    assert sorted(order.replace(" and ", ", ").split(", ")) == sorted(listed.replace(" and ", ", ").split(", "))
    assert listed in voice
    assert len(drop.split()) == len(listed.split()) - 1
    assert len({listed, synonyms, order, voice, drop}) == 5
    assert len(synonyms.split()) == len(listed.split())
    assert rules.rewrite(["a red circle above an orange star"], 2)[0][1] == "an orange star below a red circle"
    assert rules.rewrite([listed], 4) == RuleRewriter().rewrite([listed], 4)
    assert rules.rewrite(["thing"], 4)[0][3].replace("thing", "{}") in (
        "{} can be seen",
        "the picture shows {}",
        "shown is {}",
    )
    assert all(text != "a hexagon" for k in range(12) for text in rules.rewrite(["a hexagon"], k)[0])
