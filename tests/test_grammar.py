"""The words come first: every prompt of every chapter is made of words that captions train."""

import re
from collections import Counter
from random import Random

import pytest

from clipnotes import grammar, toyworld


def test_every_prompt_of_every_chapter_is_trained():
    for chapter, prompts in grammar.PROMPTS.items():
        for prompt in prompts:
            assert grammar.unknown_words(prompt) == [], (chapter, prompt)
    for template in (*grammar.HELD_OUT_TEMPLATES, *grammar.TEMPLATES):
        assert grammar.unknown_words(template.format("a dog")) == [], template
    assert set(grammar.PROMPTS) >= {"01_clip", "02_lseg", "04_vild", "05_glip", "07_clipasso", "08_clip4clip",
                                    "09_actionclip", "10_clip_vil", "11_audioclip", "12_pointclip", "13_depthclip"}


@pytest.fixture(scope="module")
def captions():
    return [c for seed in range(0, 192, 16) for c in toyworld.pretraining(1000, seed, 32)["captions"]]


def test_captions_say_only_known_words_and_nearly_all_of_them(captions):
    said = Counter(w for c in captions for w in re.findall(r"[a-z0-9-]+|,", c))
    assert set(said) <= grammar.words()
    rare = {w for c in grammar.concepts() for w in (*c.keywords, *grammar.plural(c.name).split())}
    assert grammar.words() - set(said) - rare == set()
    assert len(rare - set(said)) < 0.1 * len(rare), "too few captions say the rare words"


def test_words_never_trained_stay_so(captions):
    text = " ".join(captions)
    assert all(word not in grammar.words() and f" {word} " not in text for word in grammar.NEVER_TRAINED)


def test_general_words_stand_in_15_per_cent_of_phrases():
    rng = Random(0)
    names = [grammar.noun(i % len(grammar.concepts()), rng) for i in range(6000)]
    share = sum(n != grammar.concepts()[i % len(grammar.concepts())].name for i, n in enumerate(names)) / 6000
    assert 0.13 < share < 0.17


def test_held_out_templates_are_new_sentences():
    assert not set(grammar.HELD_OUT_TEMPLATES) & {*grammar.TEMPLATES, *sum(grammar.STYLE_TEMPLATES.values(), ())}


@pytest.mark.parametrize("name, many", [("dog", "dogs"), ("mouse", "mice"), ("bus", "buses"), ("cherry", "cherries"),
                                        ("key", "keys"), ("sheep", "sheep"), ("fox", "foxes"), ("milk", "milk")])
def test_plural(name, many):
    assert grammar.plural(name) == many


def test_articles():
    assert [grammar.article(w) for w in ("dog", "apple", "unicorn", "milk", "small owl")] == \
        ["a dog", "an apple", "a unicorn", "milk", "a small owl"]


def test_distance_words_are_ordered():
    assert [grammar.distance(m) for m in (1, 2, 3, 5, 8, 15, 40)] == \
        ["very close", "close", "near", "a little far", "far", "very far", "very far"]


def test_captions_fit_the_tiny_context(captions):
    from clipnotes.tokenizer import tokenize

    assert (tokenize(captions, 40) > 0).sum(1).max() <= 40
