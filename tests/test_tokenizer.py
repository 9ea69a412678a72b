"""clipnotes.tokenizer: the same ids as OpenAI's CLIP and open_clip, on texts of every kind."""

import json
import random
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import clipnotes  # noqa: F401  before open_clip: it repairs torchvision
from clipnotes import tokenizer

GOLDEN = Path(__file__).parent / "golden" / "clip_tokens.safetensors"
SCRIPTS = [  # ranges of Unicode: Latin to emoji, and what is neither letter nor sign
    (0x00, 0x20), (0x20, 0x7F), (0x7F, 0xA0), (0xA0, 0x250), (0x250, 0x370), (0x370, 0x400), (0x400, 0x530),
    (0x530, 0x600), (0x600, 0x700), (0x900, 0x980), (0xB80, 0xC00), (0xE00, 0xE80), (0x10A0, 0x1100),
    (0x1200, 0x1380), (0x1E00, 0x2000), (0x2000, 0x2070), (0x20A0, 0x20C0), (0x2100, 0x2200),
    (0x2200, 0x2300), (0x2460, 0x2500), (0x2600, 0x27C0), (0x3000, 0x3040), (0x3040, 0x3100),
    (0x4E00, 0x5200), (0xAC00, 0xB000), (0xF900, 0xFB00), (0xFB00, 0xFB50), (0xFE00, 0xFE10),
    (0xFF00, 0xFFF0), (0x10300, 0x10330), (0x1D400, 0x1D800), (0x1F1E6, 0x1F200), (0x1F300, 0x1F700),
    (0x1F900, 0x1FA00), (0x20000, 0x20100), (0xE0000, 0xE0080), (0x10FFF0, 0x110000),
]
WORDS = (
    "a photo of a dog it's we'll they've I'm he'd don't you're CAFÉ naïve Größe straße İstanbul ﬁsh ſ 'ſ ’s "
    "‘em “x” перо Москва собака 犬 一只狗 写真 개 सेब तस्वीर صورة קטן หมา ไทย σοφός ΣΑΣ Việt "
    "zoë's rock'n'roll 'tis don''t 123 4x4 3.14 1,000 ½ ② Ⅳ ٣ $5 50% #tag @you e-mail :-) ... !!! "
    "__init__ http://x.y/z?a=1&b=2 C++ \\n `a` &amp; &lt;b&gt; &#39; &#x1F600; &amp;amp; &NTILDE; "
    "&eacute; &nosuch; & && &nbsp; &lt &ampx &#0; <end_of_text> <START_of_text> <|endoftext|> <b> "
    "â€™ Ã©t Â© ĳ K Å 👩‍👩‍👧 👍🏽 🇨🇭 ❤️ ☃ é ﷽ ﾊﾝ Ｆｕｌｌ"
).split()
SPACES = [
    "", " ", "  ", "\t", "\n", "\r\n", "\v", "\f", "\x1c", "\x85", "\u00a0", "\u1680", "\u2003", "\u2028",
    "\u200b", "\u200d", "\u3000", "\ufeff", "\x00", "\x1b[31m",
]


def texts(n: int, seed: int = 0) -> list[str]:
    """n different strings, the same everywhere: words, signs of one script and spaces of all kinds, mixed."""
    rng, found = random.Random(seed), {}
    while len(found) < n:
        text = rng.choice(SPACES)
        for _ in range(rng.randint(1, 8)):
            if rng.random() < 0.6:
                text += rng.choice(WORDS)
            else:
                low, high = rng.choice(SCRIPTS)
                text += "".join(chr(rng.randrange(low, high)) for _ in range(rng.randint(1, 6)))
            text += rng.choice(SPACES) if rng.random() < 0.5 else " "
        found[text] = None
    return list(found)


@pytest.fixture(scope="module")
def ours() -> tokenizer.Tokenizer:
    return tokenizer.Tokenizer()


@pytest.fixture(scope="module")
def theirs():
    import open_clip

    return open_clip.SimpleTokenizer()


def test_golden_ids(ours):
    with safe_open(GOLDEN, "pt") as file:
        data, sizes, ids, lengths = (
            file.get_tensor(name) for name in ("in/utf8", "in/utf8_length", "out/ids", "out/length"))
        strings = json.loads(file.metadata()["config"])["strings"]
    for i, string in enumerate(strings):
        text = bytes(data[i, : sizes[i]].tolist()).decode()
        assert text == string
        assert [ours.start, *ours.encode(text), ours.end] == ids[i, : lengths[i]].tolist()
    assert torch.equal(tokenizer.tokenize(strings, ids.shape[1]), ids)


def test_vocabulary_equals_open_clips(ours, theirs):
    assert ours.vocabulary == [theirs.decoder[i] for i in range(49408)]
    assert (ours.start, ours.end) == (49406, 49407)


def test_ten_thousand_strings(ours, theirs):
    strings = texts(10_000)
    assert len(strings) == 10_000
    wrong = [text for text in strings if ours.encode(text) != theirs.encode(text)]
    assert not wrong, f"{len(wrong)} differ, the first is {wrong[0]!r}"
    plain = sum(bool(tokenizer.PLAIN_TEXT.fullmatch(text)) for text in strings)
    assert plain < 5_000, "most of these strings must take the long way"


def test_plain_strings_take_the_short_way(ours, theirs, monkeypatch):
    """Printable ASCII needs neither ftfy nor regex, and has the same ids."""
    rng = random.Random(1)
    plain = [word for word in WORDS if word.isascii() and tokenizer.PLAIN_TEXT.fullmatch(word)]
    strings = [" ".join(rng.choices(plain, k=6)) for _ in range(1000)]
    strings += ["".join(chr(rng.randrange(32, 127)) for _ in range(12)) for _ in range(2000)]
    strings = [text for text in strings if tokenizer.PLAIN_TEXT.fullmatch(text)]
    assert len(strings) > 2500
    expected = [theirs.encode(text) for text in strings]
    monkeypatch.setitem(sys.modules, "ftfy", None)
    monkeypatch.setitem(sys.modules, "regex", None)
    assert [ours.encode(text) for text in strings] == expected


def test_html_entities_take_the_long_way():
    for text in ("&amp;", "a &lt; b", "&#39;", "&#x41;", "&ampx"):
        assert not tokenizer.PLAIN_TEXT.fullmatch(text)
    for text in ("black & white", "a && b", "R&", ""):
        assert tokenizer.PLAIN_TEXT.fullmatch(text)


def test_table_equals_open_clips(ours, theirs):
    strings = texts(300, seed=2)
    assert torch.equal(ours(strings, truncate=True), theirs(strings))
    assert torch.equal(ours(strings, context_length=12, truncate=True), theirs(strings, context_length=12))


def test_decode_gives_the_text_back(ours, theirs):
    assert ours.decode(ours.encode("A photo of naïve 犬s, 3D!")) == "a photo of naïve 犬s , 3 d ! "
    for text in texts(300, seed=3):
        ids = ours.encode(text)
        ids = [token for token in ids if token < ours.start]
        assert ours.decode(ids) == theirs.decode(ids)
    assert ours.decode(torch.tensor(ours.encode("a dog"))) == "a dog "


def test_decode_names_start_and_end(ours):
    ids = tokenizer.tokenize("a dog", 5)[0].tolist()
    assert ours.decode(ids[:4]) == "<start_of_text>a dog <end_of_text>"


def test_merges_by_hand():
    ranks = {("l", "o"): 0, ("lo", "w</w>"): 1, ("e", "r</w>"): 2}
    assert tokenizer.merge(list("lo") + ["w</w>"], ranks) == ["low</w>"]
    assert tokenizer.merge(list("lowe") + ["r</w>"], ranks) == ["lo", "w", "er</w>"]
    assert tokenizer.merge(list("lolo") + ["w</w>"], ranks) == ["lo", "low</w>"]
    assert tokenizer.merge(["x</w>"], ranks) == ["x</w>"]


def test_words_know_their_tokens(ours):
    ids = [ours.start, *ours.encode("two okapis"), ours.end, 0, 0]
    words = ours.words(ids)
    assert [word for word, _ in words] == ["two", "okapis"]
    assert [place for _, places in words for place in places] == list(range(1, ids.index(ours.end)))


def test_start_end_and_padding(ours):
    ids = tokenizer.tokenize(["dog", ""], context_length=6)
    assert ids.dtype == torch.long and ids.shape == (2, 6)
    assert ids[0].tolist() == [49406, 1929, 49407, 0, 0, 0]
    assert ids[1].tolist() == [49406, 49407, 0, 0, 0, 0]
    assert torch.equal(tokenizer.tokenize("dog", 6), ids[:1])


def test_a_text_that_just_fits(ours):
    assert tokenizer.tokenize("dog " * 75)[0, -1] == ours.end
    with pytest.raises(ValueError, match=r"'dog dog .*\.\.\.' has 78 tokens, the limit is 77"):
        tokenizer.tokenize("dog " * 76)
    cut = tokenizer.tokenize("dog " * 76, truncate=True)
    assert torch.equal(cut, tokenizer.tokenize("dog " * 75))


def test_the_long_text_is_named():
    with pytest.raises(ValueError, match="'a photo of a dog' has 7 tokens, the limit is 6: shorten it, or"):
        tokenizer.tokenize(["fine", "a photo of a dog"], context_length=6)


def test_texts_are_strings():
    for bad, kind in (([1], "int"), ([None], "NoneType"), ([b"dog"], "bytes"), ([["dog"]], "list")):
        with pytest.raises(ValueError, match=f"Texts are strings, not {kind}"):
            tokenizer.tokenize(bad)


def test_one_tokenizer_is_shared():
    assert tokenizer.shared_tokenizer() is tokenizer.shared_tokenizer()


def test_not_slower_than_open_clip(ours, theirs):
    rng = random.Random(4)
    names = "dog cat boat rocket strawberry umbrella hedgehog saxophone".split()
    captions = [f"a red {rng.choice(names)} to the left of two {rng.choice(names)}s" for _ in range(1000)]
    times: dict = {ours: [], theirs: []}
    for _ in range(3):
        for which in times:
            start = time.perf_counter()
            which(captions)
            times[which].append(time.perf_counter() - start)
    assert min(times[ours]) <= min(times[theirs])
