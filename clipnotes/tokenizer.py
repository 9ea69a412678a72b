"""CLIP's tokenizer, from scratch: lower-cased byte-pair encoding with 49,408 ids (Radford et al. 2021, 2.4).

The merges were learnt by OpenAI; the file comes with CLIP (MIT licence).
"""

import functools
import gzip
import html
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

MERGES = Path(__file__).parent / "data" / "bpe_simple_vocab_16e6.txt.gz"
SPECIAL = ("<start_of_text>", "<end_of_text>")
ENDINGS = r"'s|'t|'re|'ve|'m|'ll|'d"
PLAIN_WORD = re.compile(rf"{'|'.join(SPECIAL)}|{ENDINGS}|[a-z]+|[0-9]|[^\sa-z0-9]+")
PLAIN_TEXT = re.compile(r"(?:[ -%'-~\t\n\r]|&(?![#0-9A-Za-z]))*")  # printable ASCII without an HTML entity


def byte_symbols() -> list[str]:
    """One visible character for each of the 256 bytes: its own where there is one, else a spare one.

    Merges are stored as lines of text, where spaces and control characters would get lost.
    """
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    spare = iter(range(256, 512))
    return [chr(byte if byte in visible else next(spare)) for byte in range(256)]


def merge(parts: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding: join the neighbours that were learnt first (lowest rank), until none are known."""
    while len(parts) > 1:
        pair = min(zip(parts, parts[1:], strict=False), key=lambda pair: ranks.get(pair, len(ranks)))
        if pair not in ranks:
            break
        joined, i = [], 0
        while i < len(parts):
            step = 2 if tuple(parts[i : i + 2]) == pair else 1
            joined.append("".join(parts[i : i + step]))
            i += step
        parts = joined
    return parts


class Tokenizer:
    """Text <-> token ids, equal to CLIP's. `start` and `end` are the ids around every text.

    The ids 0..255 are the bytes (the printable ones first), 256..511 the bytes that end a word, then one id
    a merge in the order in which the merges were learnt, then start and end.
    """

    def __init__(self):
        self.symbols = byte_symbols()
        lines = gzip.decompress(MERGES.read_bytes()).decode().split("\n")
        merges = [tuple(line.split()) for line in lines[1 : 1 + 49408 - 2 * 256 - 2]]  # the file has more
        letters = sorted(self.symbols, key=lambda symbol: (ord(symbol) >= 256, symbol))
        vocabulary = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
        self.vocabulary = vocabulary + list(SPECIAL)
        self.ids = {token: i for i, token in enumerate(self.vocabulary)}
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.bytes = {symbol: byte for byte, symbol in enumerate(self.symbols)}
        self.start, self.end = (self.ids[token] for token in SPECIAL)
        self.known: dict[str, list[int]] = {token: [self.ids[token]] for token in SPECIAL}  # word -> ids

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without start and end."""
        ids, known = [], self.known
        for word in _words(text):
            if word not in known:
                letters = [self.symbols[byte] for byte in word.encode()]
                letters[-1] += "</w>"
                known[word] = [self.ids[token] for token in merge(letters, self.ranks)]
            ids += known[word]
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        r"""The text of some ids, a space after each word; bytes that are no text become "\ufffd"."""
        symbols = "".join(self.vocabulary[int(i)] for i in ids).replace("</w>", " ")
        data = bytes(self.bytes.get(symbol, ord(" ")) for symbol in symbols)
        return data.decode(errors="replace")

    def words(self, ids: list[int]) -> list[tuple[str, list[int]]]:
        """The words of a row of ids up to its end, each with the places of its tokens."""
        found, places = [], []
        for i, token in enumerate(ids):
            if token == self.end:
                break
            if token != self.start:
                places.append(i)
                if self.vocabulary[token].endswith("</w>"):
                    found.append((self.decode(ids[j] for j in places).strip(), places))
                    places = []
        return found

    def __call__(self, texts: str | list[str], context_length: int = 77, truncate: bool = False) -> Tensor:
        """N texts -> Nxcontext_length ids: start, text, end, zeros.

        A text that is too long is a ValueError, or is cut before its end id with `truncate=True`.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        ids = torch.zeros(len(texts), context_length, dtype=torch.long)
        for row, text in zip(ids, texts, strict=True):
            if not isinstance(text, str):
                raise ValueError(f"Texts are strings, not {type(text).__name__}: {text!r}.")
            tokens = [self.start, *self.encode(text), self.end]
            if len(tokens) > context_length:
                if not truncate:
                    shown = text if len(text) <= 60 else text[:57] + "..."
                    raise ValueError(f"{shown!r} has {len(tokens)} tokens, the limit is {context_length}: "
                                     "shorten it, or tokenize it with truncate=True.")
                tokens[context_length - 1 :] = [self.end]
            row[: len(tokens)] = torch.tensor(tokens)
        return ids


def _words(text: str) -> list[str]:
    """Clean a text as CLIP does, and split it into words, single digits and runs of signs."""
    if PLAIN_TEXT.fullmatch(text):
        return PLAIN_WORD.findall(text.lower())
    import ftfy  # here: captions in plain English need neither package

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return _any_word().findall(" ".join(text.split()).lower())


@functools.cache
def _any_word():
    import regex

    pattern = rf"{'|'.join(SPECIAL)}|{ENDINGS}|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+"
    return regex.compile(pattern, regex.IGNORECASE)


@functools.cache
def shared_tokenizer() -> Tokenizer:
    """The one tokenizer of this process: reading the merges takes a tenth of a second."""
    return Tokenizer()


def tokenize(texts: str | list[str], context_length: int = 77, truncate: bool = False) -> Tensor:
    """N texts -> Nxcontext_length ids, with one shared `Tokenizer`."""
    return shared_tokenizer()(texts, context_length, truncate)
