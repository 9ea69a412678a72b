"""Names in templates, and class vectors."""

import pytest
import torch
import torch.nn.functional as F

from clipnotes import prompts


@pytest.mark.parametrize(
    ("template", "name", "text"),
    [
        ("a photo of a {}.", "dog", "a photo of a dog."),
        ("a photo of a {}.", "apple", "a photo of an apple."),
        ("an image of {}", "elephant", "an image of an elephant"),
        ("a photo of the {}.", "apple", "a photo of the apple."),
        ("a photo of a small {}.", "apple", "a photo of a small apple."),
        ("{}", "cat", "a cat"),
        ("a photo of {}", "american_bulldog", "a photo of an american bulldog"),
        ("A {} in the rain", "unicorn", "a unicorn in the rain"),
    ],
)
def test_fill(template, name, text):
    assert prompts.fill(template, name) == text


@pytest.mark.parametrize("template", ["a photo", "{} and {}"])
def test_fill_refuses_a_template_without_one_place(template):
    with pytest.raises(ValueError, match="once, where the name goes"):
        prompts.fill(template, "dog")


class Letters:
    """A text encoder that counts letters."""

    def encode_text(self, texts, normalize=True):
        counts = torch.tensor([[t.count(c) + 0.01 * len(t) for c in "abcdefgh"] for t in texts])
        return F.normalize(counts, dim=-1) if normalize else counts


def test_class_embeddings_are_the_unit_mean_of_unit_vectors():
    names, templates = ["dog", "cab"], ["a photo of a {}.", "{}", "big {}"]
    found = prompts.class_embeddings(Letters(), names, templates)
    for name, vector in zip(names, found, strict=True):
        texts = [prompts.fill(t, name) for t in templates]
        assert torch.allclose(vector, F.normalize(Letters().encode_text(texts).mean(0), dim=0))
    assert found.shape == (2, 8)
    assert torch.allclose(found.norm(dim=-1), torch.ones(2))


def test_class_embeddings_refuse_nothing():
    with pytest.raises(ValueError, match="at least one"):
        prompts.class_embeddings(Letters(), [], ["{}"])


def test_a_string_is_no_list():
    """Its letters would each become a class."""
    with pytest.raises(ValueError, match=r"names are a list: write \['dog'\]"):
        prompts.class_embeddings(Letters(), "dog", ["{}"])
    with pytest.raises(ValueError, match=r"templates are a list: write \['a photo of \{\}'\]"):
        prompts.class_embeddings(Letters(), ["dog"], "a photo of {}")


def test_photo_templates_all_fill():
    assert len({prompts.fill(t, "orange") for t in prompts.PHOTO_TEMPLATES}) == len(prompts.PHOTO_TEMPLATES)
    assert "a photo of an orange." in [prompts.fill(t, "orange") for t in prompts.PHOTO_TEMPLATES]
