"""Figure 3.1: what the shipped GroupViT makes of the postcard and of a photograph, before the chapter has built it.

    python tools/ch03_figure.py

Writes clipnotes/data/ch03_figure.json: for each picture the chained soft maps G×12×12 and the name of each group. The
chapter computes the maps again and compares. Run it after tools/ch03_groupvit.py has made another main:0.
"""

import torch

from ch03_groupvit import OUT, chapter
from clipnotes import hub, toyworld
from clipnotes.clip import load_clip
from notebooks import write_json

CANDIDATES = ["rocket", "tree", "dog", "apple", "cat", "sky", "grass"]


@torch.no_grad()
def main() -> None:
    clip, found = load_clip("tiny").requires_grad_(False), {}
    model, _ = chapter.load_groupvit("ch03_groupvit", clip)
    text_emb = chapter.name_embeddings(model, clip, CANDIDATES)
    for name, picture in (("postcard", toyworld.postcard()["images"]), ("cat", hub.photo("cat", 96))):
        maps = chapter.group_maps(model.tokens(picture)[1], (12, 12), (12, 12))[0]
        _, group_emb = chapter.segments(model, picture)
        called = [CANDIDATES[i] for i in (group_emb[0] @ text_emb.T).argmax(1).tolist()]
        found[name] = dict(names=called, maps=[[[round(v, 3) for v in row] for row in m] for m in maps.tolist()])
    write_json(OUT.with_name("ch03_figure.json"), found, indent=None)


if __name__ == "__main__":
    main()
