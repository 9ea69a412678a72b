"""What is no chapter's: the tokenizer, the toy world's generators, and how long an import takes."""

import os
import subprocess
import sys
import time
from collections.abc import Callable

from bench import ROOT, Results, benchmark, median, versus
from clipnotes import grammar, toyworld
from clipnotes.tokenizer import Tokenizer


@benchmark
def tokenizer(count: int = 2000) -> Results:
    """Captions of the toy world, one in four with odd spellings, against open_clip's tokenizer. Both remember words."""
    from open_clip import SimpleTokenizer

    names, templates = [grammar.article(c.name) for c in grammar.concepts()], grammar.TEMPLATES
    texts = [templates[i % len(templates)].format(names[i % len(names)]) for i in range(count)]
    texts = [text if i % 4 else f"{text} n°{i} Café-{i}!" for i, text in enumerate(texts)]
    ours, theirs = Tokenizer(), SimpleTokenizer()
    assert [ours.encode(t) for t in texts[:50]] == [theirs.encode(t) for t in texts[:50]], "the tokens differ"
    return {
        f"tokenizer, {count} captions": versus(
            lambda: [ours.encode(t) for t in texts], lambda: [theirs.encode(t) for t in texts], 5)
    }


@benchmark
def generator(turns: int = 5, share: float = 1.0) -> Results:
    """Pictures a second of one core's time: processor time, so that other programs do not count."""
    found = {}
    for name, make, count, bar in (
        ("singles", toyworld.singles, 512, 1000),
        ("scenes", toyworld.scenes, 256, 400),
    ):
        rates, count = [], int(share * count)
        for turn in range(turns + 1):
            started = time.process_time()
            make(count, seed=turn)
            rates.append(count / (time.process_time() - started))
        found[f"toyworld.{name}"] = {"per_second": median(rates[1:]), "unit": "pictures", "at_least": bar}
    return found


@benchmark
def imports(turns: int = 3) -> Results:
    """A fresh Python that imports clipnotes, against one that imports torch."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}

    def fresh(module: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", f"import {module}"], env=environment, check=True)

    return {"import clipnotes against torch": versus(fresh("clipnotes"), fresh("torch"), turns)}
