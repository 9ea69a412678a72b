"""Chapter 8: films a second, and search among a million of them."""

import torch

from bench import ROOT, Results, benchmark, load, rate
from clipnotes.clip import load_clip
from clipnotes.temporal import encode_films
from notebooks import defined


@benchmark
def heads(batch: int = 32, turns: int = 5) -> Results:
    """Films a second from pixels, of each head on frame vectors, and how the cost grows with frames.

    The tight head makes one number for each pair, so its films are pairs of a film and one text.
    """
    chapter = defined(ROOT / "chapters" / "08_clip4clip.ipynb")
    torch.manual_seed(0)
    modules = {"mean": chapter.MeanHead(), "LSTM": chapter.LSTMHead(128),
               "transformer": chapter.TransformerHead(128, 2, 2, 65), "tight": chapter.TightHead(128, 2, 2, 65)}
    tiny, found, text = load_clip("tiny").eval(), {}, torch.randn(1, 128)
    with torch.no_grad():
        for count in (8, 16, 64):
            frames, mask = torch.randn(batch, count, 128), torch.ones(batch, count, dtype=torch.long)
            for name, head in modules.items():
                found[f"CLIP4Clip, {name}, {count} frames"] = rate(
                    lambda: head.eval()(text, frames, mask), batch, "films", turns)  # noqa: B023
            if count <= 16:
                pixels = torch.rand(batch, count, 3, 64, 64)
                found[f"CLIP4Clip, encoding {count} frames"] = rate(
                    lambda: encode_films(tiny, pixels, mask), batch, "films", turns)  # noqa: B023
    return found


@benchmark(slow=True)
def scale(millions: float = 1.0) -> Results:
    """Search in growing collections of films: exact, and by faiss's inverted lists. The chapter's recorder measures."""
    rows = load(ROOT / "recordings" / "08_clip4clip" / "record.py").scale(millions)["rows"]
    return {f"search in {row['films']:,} films, {row['index']}, recall {row['recall']:.3f}":
            {"per_second": row["queries_per_second"], "unit": "queries"} for row in rows}
