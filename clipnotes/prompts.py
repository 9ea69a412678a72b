"""From names to sentences to class vectors: how a CLIP becomes a classifier (CLIP paper, section 3.1.4).

The toy world's own sentences are `clipnotes.grammar.TEMPLATES`; `PHOTO_TEMPLATES` is a short list for real
photos.
"""

import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipnotes.grammar import article

PHOTO_TEMPLATES = (
    "a photo of a {}.",
    "a close-up photo of a {}.",
    "a photo of a small {}.",
    "a photo of a big {}.",
    "a dark photo of a {}.",
    "a bright photo of a {}.",
    "a blurry photo of a {}.",
    "a photo of the {}.",
)


def fill(template: str, name: str) -> str:
    """Put a name into a template with the right article.

    "a photo of a {}." and "a photo of {}" both give "a photo of an apple"; a word such as "the" before {}
    stays alone. Underscores of class names become spaces. Raises ValueError for a template without {}.
    """
    if template.count("{}") != 1:
        raise ValueError(f"The template {template!r} must contain {{}} once, where the name goes.")
    name = name.replace("_", " ")
    before = re.search(r"(\S+) \{\}", template)
    if before and before[1].lower() in ("a", "an"):
        return template.replace(f"{before[1]} {{}}", article(name))
    if before and before[1].lower() in ("the", "this", "that", "one", "my", "small", "big"):
        return template.replace("{}", name)
    return template.replace("{}", article(name))


@torch.no_grad()
def class_embeddings(model: nn.Module, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """One unit vector per name, K×D: the mean of its unit vectors under all templates, made unit again.

    model: anything with `encode_text(list of texts, normalize=True)`. Raises ValueError without names or
    templates, and for a single string in their place.
    """
    for what, given in (("names", names), ("templates", templates)):
        if isinstance(given, str):
            raise ValueError(f"{what} are a list: write [{given!r}].")
        if not len(given):
            raise ValueError("Give at least one name and one template.")
    text_emb = [model.encode_text([fill(t, name) for name in names], normalize=True) for t in templates]
    return F.normalize(torch.stack(text_emb).mean(0), dim=-1)
