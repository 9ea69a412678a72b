"""CLIP from scratch: two towers, one space, one symmetric loss (Radford et al. 2021, arXiv:2103.00020).

All weights have the names of OpenAI's release, so its checkpoints load strictly, key for key.
Chapter 1 builds the towers and the dual encoder in front of the reader; what later chapters need comes after them.
"""

import json
import math
import warnings
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from clipnotes.checkpoints import fit, read_state_dict
from clipnotes.files import digest
from clipnotes.pins import PinError, check_digest, pinned_commit
from clipnotes.tokenizer import shared_tokenizer, tokenize
from clipnotes.weights import DATA, load_weights, save_weights, shipped, stored, write

IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI's, of its training pictures: red, green, blue
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)

Texts = str | list[str] | Tensor  # texts, or their ids NxT

# open_clip's copies of OpenAI's weights: the commit that is fetched, and the sha256 of its open_clip_model.safetensors.
# What is fetched of others is pinned at first use (see `clipnotes.pins`).
PINNED = {
    "timm/resnet50_clip.openai": (
        "ec3d92cf63a5f9d591f0d611b736895966c73076", "da0baa37fb2211eee5729ab69ed587eb10d48f5b7076ceeed01552fc3d4cb4ee"),
    "timm/vit_base_patch32_clip_224.openai": (
        "a6f597a30f7b82c51704746581f9a4e41421e878", "e6d1bd7789aa45192b3bf90570a789b478bae1b74ebcce7eddd908e83a2b7c31"),
    "timm/vit_base_patch16_clip_224.openai": (
        "977e3dd0ec55ab8da155f2fbeb6b5f54948b6e3d", "4b8699299b1e8997753c64b052ba32031449d5d853f55a039148560ee02b820f"),
    "timm/vit_large_patch14_clip_224.openai": (
        "18d0535469bb561bf468d76c1d73aa35156c922b", "9ce2e8a8ebfff3793d7d375ad6d3c35cb9aebf3de7ace0fc7308accab7cd207e"),
}


class UntrainedTokenWarning(UserWarning):
    """A text holds words that the model never saw in training."""


# ---------------------------------------------------------------- the transformer


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x): close to GELU, but not equal. OpenAI's weights were trained with this one."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Queries BxSxD look at keys and values BxTxD, in `heads` groups of channels; `mask` SxT is added."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # B x heads x T x D/heads
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores + mask
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Self-attention over tokens BxTxD. One matrix makes queries, keys and values, in this order."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        return self.out_proj(attend(q, k, v, self.heads, mask))


class ResidualAttentionBlock(nn.Module):
    """Tokens first look at each other (attention), then think alone (MLP); each step adds to its input."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attn = Attention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        widen, narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(OrderedDict(c_fc=widen, gelu=QuickGELU(), c_proj=narrow))
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.attn(self.ln_1(x), mask)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of blocks: the same for pictures (no mask) and for texts (causal mask)."""

    def __init__(self, width: int, layers: int, heads: int):
        super().__init__()
        self.resblocks = nn.ModuleList(ResidualAttentionBlock(width, heads) for _ in range(layers))
        self.initialize(width, layers)

    def initialize(self, width: int, layers: int) -> None:
        """What a block adds to its input starts out small, the smaller the more blocks there are."""
        for block in self.resblocks:
            nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=(2 * width * layers) ** -0.5)
            nn.init.zeros_(block.attn.out_proj.bias)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=(2 * width * layers) ** -0.5)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


# ---------------------------------------------------------------- image towers


def resize_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Positions (1+side*side)xD of a square grid -> (1+h*w)xD. The first, no place in the image, stays."""
    side = math.isqrt(len(positions) - 1)
    if grid == (side, side):
        return positions
    places = positions[1:].float().T.unflatten(1, (side, side))
    places = F.interpolate(places[None], size=grid, mode="bicubic", align_corners=False, antialias=False)
    return torch.cat([positions[:1], places[0].flatten(1).T.to(positions.dtype)])


class VisionTransformer(nn.Module):
    """Standardised images Bx3xHxW -> BxE: patches become tokens, tokens become one vector."""

    def __init__(self, image_size: int, patch_size: int, width: int, layers: int, heads: int,
                 embed_dim: int, pool: str = "tok"):
        super().__init__()
        self.patch_size, self.pool = patch_size, pool
        self.conv1 = nn.Conv2d(3, width, patch_size, stride=patch_size, bias=False)
        tokens, scale = 1 + (image_size // patch_size) ** 2, width**-0.5
        self.class_embedding = nn.Parameter(torch.randn(width) * scale)
        self.positional_embedding = nn.Parameter(torch.randn(tokens, width) * scale)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, heads)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.randn(width, embed_dim) * scale)

    def embed(self, x: Tensor) -> Tensor:
        """-> BxLxD: the class token, then the patches row by row."""
        x = self.conv1(x)
        positions = resize_positions(self.positional_embedding, tuple(x.shape[-2:]))
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        return self.ln_pre(x + positions)

    def forward(self, x: Tensor) -> Tensor:
        x = self.transformer(self.embed(x))
        x = self.ln_post(x[:, 0]) if self.pool == "tok" else self.ln_post(x[:, 1:]).mean(1)
        return x @ self.proj

    def layers(self, x: Tensor) -> dict[int, Tensor]:
        """The tokens BxLxD after each block."""
        x, found = self.embed(x), {}
        for i, block in enumerate(self.transformer.resblocks):
            x = found[i] = block(x)
        return found


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut. A stride is an average pool: no pixel is skipped."""

    def __init__(self, inputs: int, width: int, stride: int = 1):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        nn.init.zeros_(self.bn3.weight)  # a new block is its shortcut alone
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.downsample = None
        if stride > 1 or inputs != 4 * width:
            steps = self.avgpool, nn.Conv2d(inputs, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
            self.downsample = nn.Sequential(OrderedDict(zip(("-1", "0", "1"), steps, strict=True)))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.avgpool(F.relu(self.bn2(self.conv2(x))))
        return F.relu(self.bn3(self.conv3(x)) + shortcut)


class AttentionPool2d(nn.Module):
    """A map BxCxhxw -> BxE: the mean of all places asks, the mean and all places answer."""

    def __init__(self, side: int, width: int, heads: int, embed_dim: int):
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(1 + side**2, width) * width**-0.5)
        self.k_proj, self.q_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.c_proj = nn.Linear(width, embed_dim)
        for linear in (self.k_proj, self.q_proj, self.v_proj, self.c_proj):
            nn.init.normal_(linear.weight, std=width**-0.5)

    def tokens(self, x: Tensor) -> Tensor:
        positions = resize_positions(self.positional_embedding, tuple(x.shape[-2:]))
        x = x.flatten(2).transpose(1, 2)
        return torch.cat([x.mean(1, keepdim=True), x], dim=1) + positions

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        q, k, v = self.q_proj(x[:, :1]), self.k_proj(x), self.v_proj(x)
        return self.c_proj(attend(q, k, v, self.heads))[:, 0]

    def places(self, x: Tensor) -> Tensor:
        """BxhxwxE: what the pool would return if it looked at this place alone."""
        return self.c_proj(self.v_proj(self.tokens(x)[:, 1:])).unflatten(1, x.shape[-2:])


class ModifiedResNet(nn.Module):
    """Standardised images Bx3xHxW -> BxE: a stem of three convolutions, four stages, attention pooling."""

    def __init__(self, image_size: int, layers: tuple[int, ...], width: int, heads: int, embed_dim: int):
        super().__init__()
        self.patch_size = 32  # pixels between two places of the last map
        half = width // 2
        self.conv1, self.bn1 = nn.Conv2d(3, half, 3, 2, 1, bias=False), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = nn.Conv2d(half, half, 3, 1, 1, bias=False), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = nn.Conv2d(half, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        inputs = width
        for stage, depth in enumerate(layers):
            inner = width * 2**stage
            blocks = [Bottleneck(inputs, inner, stride=1 if stage == 0 else 2)]
            blocks += [Bottleneck(4 * inner, inner) for _ in range(depth - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            inputs = 4 * inner
        self.attnpool = AttentionPool2d(image_size // 32, inputs, heads, embed_dim)

    def layers(self, x: Tensor) -> dict[str, Tensor]:
        """The maps BxCxhxw after the stem and each stage."""
        for conv, bn in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = F.relu(bn(conv(x)))
        found = {"stem": F.avg_pool2d(x, 2)}
        found["layer1"] = self.layer1(found["stem"])
        found["layer2"] = self.layer2(found["layer1"])
        found["layer3"] = self.layer3(found["layer2"])
        found["layer4"] = self.layer4(found["layer3"])
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.attnpool(self.layers(x)["layer4"])


# ---------------------------------------------------------------- the model


@dataclass
class CLIPConfig:
    """The shape of a CLIP. `vision_layers` is one number for a ViT, four for a ModifiedResNet.

    `pool`: "tok" reads the class token (OpenAI), "avg" the mean over the patch tokens.
    Heads are 64 channels wide unless they are given.
    """

    embed_dim: int
    image_size: int
    vision_layers: int | tuple[int, int, int, int]
    vision_width: int
    patch_size: int | None
    context_length: int
    vocab_size: int
    text_width: int
    text_layers: int
    pool: str = "tok"
    vision_heads: int | None = None
    text_heads: int | None = None

    def __post_init__(self) -> None:
        if self.pool not in ("tok", "avg"):
            raise ValueError(f'pool is "tok" or "avg", not {self.pool!r}.')
        if not self.is_vit:
            self.vision_layers = tuple(self.vision_layers)  # JSON has lists only
        last_width = self.vision_width if self.is_vit else 32 * self.vision_width
        self.vision_heads = self.vision_heads or max(1, last_width // 64)
        self.text_heads = self.text_heads or max(1, self.text_width // 64)

    @property
    def is_vit(self) -> bool:
        return isinstance(self.vision_layers, int)


def image_tower(config: CLIPConfig) -> nn.Module:
    """The VisionTransformer or the ModifiedResNet of a configuration."""
    size, layers, width = config.image_size, config.vision_layers, config.vision_width
    heads, embed_dim = config.vision_heads, config.embed_dim
    if config.is_vit:
        return VisionTransformer(size, config.patch_size, width, layers, heads, embed_dim, config.pool)
    return ModifiedResNet(size, layers, width, heads, embed_dim)


class TextTransformer(nn.Module):
    """Ids NxT -> NxE. A token sees only what stands before it: the end token has seen the whole text."""

    def __init__(self, config: CLIPConfig):
        super().__init__()
        width, length = config.text_width, config.context_length
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.randn(length, width) * 0.01)
        self.transformer = Transformer(width, config.text_layers, config.text_heads)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.randn(width, config.embed_dim) * width**-0.5)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        mask = torch.full((length, length), -torch.inf).triu(1)
        self.register_buffer("causal_mask", mask, persistent=False)

    def token_states(self, ids: Tensor) -> Tensor:
        """-> NxTxD, every token after the last block."""
        length = ids.shape[1]
        x = self.token_embedding(ids) + self.positional_embedding[:length]
        return self.ln_final(self.transformer(x, self.causal_mask[:length, :length]))

    def encode_ids(self, ids: Tensor) -> Tensor:
        states, ends = self.token_states(ids), ids.argmax(-1)  # the end token has the largest id
        return states[torch.arange(len(ids), device=ids.device), ends] @ self.text_projection


class DualEncoder(TextTransformer):
    """The model of the paper: an image tower and a text tower, ending in the same space, and a temperature.

    OpenAI's text weights have no prefix; inheriting the text tower keeps their names. To train, call
    `visual(standardise(images))` and `encode_ids(ids)`, which neither check nor normalise.
    """

    def __init__(self, config: CLIPConfig):
        super().__init__(config)
        self.config = config
        self.card: dict = {}  # how the weights were made
        self.visual = image_tower(config)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # the logarithm: use its .exp()
        self.register_buffer("image_mean", torch.tensor(IMAGE_MEAN)[:, None, None], persistent=False)
        self.register_buffer("image_std", torch.tensor(IMAGE_STD)[:, None, None], persistent=False)
        trained = torch.ones(config.vocab_size, dtype=torch.bool)
        self.register_buffer("trained_tokens", trained, persistent=False)

    def standardise(self, images: Tensor) -> Tensor:
        return (images.to(self.image_mean) - self.image_mean) / self.image_std

    def encode_image(self, images: Tensor, normalize: bool = True) -> Tensor:
        """Images Bx3xHxW in [0, 1], sides multiples of the patch -> BxE float32, unit if `normalize`."""
        check_images(images, self.visual.patch_size)
        image_emb = self.visual(self.standardise(images)).float()
        return F.normalize(image_emb, dim=-1) if normalize else image_emb

    def encode_text(self, texts: Texts, normalize: bool = True) -> Tensor:
        """Texts, or ids NxT -> NxE float32, unit if `normalize`."""
        text_emb = self.encode_ids(read_texts(texts, self)).float()
        return F.normalize(text_emb, dim=-1) if normalize else text_emb

    def forward(self, images: Tensor, texts: Texts) -> tuple[Tensor, Tensor]:
        """-> the logits per image BxN, and per text NxB."""
        logits = self.logit_scale.exp() * self.encode_image(images) @ self.encode_text(texts).T
        return logits, logits.T


def vit_patches(visual: VisionTransformer, x: Tensor, path: str) -> Tensor:
    """Standardised images -> BxhxwxE: the patch tokens of the last block in the joint space."""
    h, w = (side // visual.patch_size for side in x.shape[-2:])
    *blocks, last = visual.transformer.resblocks
    x = visual.embed(x)
    for block in blocks:
        x = block(x)
    alone = None
    if path == "value":
        alone = x.new_full((x.shape[1], x.shape[1]), -torch.inf).fill_diagonal_(0)
    return (visual.ln_post(last(x, alone)[:, 1:]) @ visual.proj).unflatten(1, (h, w))


class CLIP(DualEncoder):
    """The dual encoder with windows into it, for what later chapters need: patches, layers, words."""

    def patch_features(self, images: Tensor, normalize: bool = True, path: str | None = None) -> Tensor:
        """Images Bx3xHxW in [0, 1] -> BxhxwxE float32: one vector a patch, in the joint space.

        ViT: "tokens" are the last block's patch tokens through `ln_post` and `proj`; their mean is the
        unnormalised `encode_image` of an "avg" model. "value" lets every token of the last block look at
        itself alone (MaskCLIP, arXiv:2112.01071): the only way for the patches of a class-token model, as
        training never asked their tokens to lie in the joint space. For the tiny CLIP, too, it finds things
        more often than "tokens" (the probe page has the figures), so None means "value".
        ResNet: what the attention pool would return if it looked at this place alone; `path` stays None.
        """
        check_images(images, self.visual.patch_size)
        x = self.standardise(images)
        if path not in ((None, "tokens", "value") if self.config.is_vit else (None,)):
            raise ValueError(f'path is "tokens" or "value" for a ViT, None for a ResNet, not {path!r}.')
        if self.config.is_vit:
            patches = vit_patches(self.visual, x, path or "value")
        else:
            patches = self.visual.attnpool.places(self.visual.layers(x)["layer4"])
        return F.normalize(patches.float(), dim=-1) if normalize else patches.float()

    def features(self, images: Tensor, layers: list) -> dict:
        """Images Bx3xHxW in [0, 1] -> {layer: activations}, in the order of `layers`.

        ViT: layer i, from 0, is what block i returns: BxLxD, the class token first.
        ResNet: "stem", "layer1" to "layer4": BxCxhxw.
        """
        check_images(images, self.visual.patch_size)
        if isinstance(layers, str):
            raise ValueError(f"Layers are a list: write [{layers!r}].")
        found = self.visual.layers(self.standardise(images))
        unknown = [layer for layer in layers if layer not in found]
        if unknown:
            raise ValueError(f"There is no layer {unknown[0]!r}: this image tower has {list(found)}.")
        return {layer: found[layer] for layer in layers}

    def text_tokens(self, texts: Texts) -> tuple[Tensor, Tensor]:
        """Texts, or ids NxT -> NxTxE float32, a vector a token in the joint space (not unit), and a mask.

        The mask NxT is True on real tokens, start and end included. T is the length of the longest text.
        """
        ids = read_texts(texts, self)
        return (self.token_states(ids) @ self.text_projection).float(), real_tokens(ids)


def clip_loss(image_emb: Tensor, text_emb: Tensor, logit_scale: Tensor | float) -> Tensor:
    """Unit vectors BxE and BxE, pair i in row i -> the mean of both cross entropies (the paper's Figure 3).

    `logit_scale` is the factor itself: give `model.logit_scale.exp()`.
    """
    logits = logit_scale * image_emb @ text_emb.T
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


# ---------------------------------------------------------------- what comes in


def check_images(images: Tensor, patch: int) -> None:
    """Refuse what is not Bx3xHxW float in [0, 1] with sides that are multiples of `patch`, and say why."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"Images are a float tensor, values in [0, 1], not {kind}: divide bytes by 255.")
    shape = tuple(images.shape)
    if images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise ValueError(f"Images have the shape Bx3xHxW, not {shape}: a single image needs images[None].")
    odd = {side for side in shape[2:] if side % patch or not side}
    if odd:
        sizes = sorted({max(patch, side - side % patch + up) for side in odd for up in (0, patch)})
        near = " or ".join(map(str, sizes))
        raise ValueError(f"The sides of an image are multiples of {patch}, not {shape[-2]}x{shape[-1]}: "
                         f"for {' and '.join(map(str, sorted(odd)))} take {near}.")
    low, high = (value.item() for value in images.detach().aminmax())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # nan fails here, too
        raise ValueError(f"Image values lie in [0, 1], not in [{low:.3g}, {high:.3g}]; do not standardise.")


def read_texts(texts: Texts, model: DualEncoder) -> Tensor:
    """Texts, or ids NxT -> checked ids on the model's device, without the padding behind the longest text."""
    ids = texts if isinstance(texts, Tensor) else tokenize(texts, model.config.context_length)
    check_ids(ids, model.config)
    ids = ids.to(model.text_projection.device, torch.long)
    ids = ids[:, : ids.argmax(-1).max() + 1]  # a token sees nothing behind it: this changes no result
    warn_untrained(ids, ~model.trained_tokens[ids] & real_tokens(ids))
    return ids


def check_ids(ids: Tensor, config: CLIPConfig) -> None:
    """Refuse what is not NxT ids that the text tower knows, and say why."""
    if ids.ndim != 2 or ids.is_floating_point() or not 0 < ids.shape[1] <= config.context_length:
        raise ValueError(f"Ids are whole numbers NxT with T from 1 to {config.context_length}, "
                         f"not {ids.dtype} {tuple(ids.shape)}.")
    if not len(ids):
        raise ValueError("No texts: give a string, a list of strings that is not empty, or ids NxT.")
    if ids.min() < 0 or ids.max() >= config.vocab_size:
        raise ValueError(f"Ids lie in [0, {config.vocab_size - 1}], not in [{ids.min()}, {ids.max()}].")


def real_tokens(ids: Tensor) -> Tensor:
    """NxT bool: True up to the end token."""
    return torch.arange(ids.shape[1], device=ids.device) <= ids.argmax(-1, keepdim=True)


def warn_untrained(ids: Tensor, untrained: Tensor) -> None:
    """Name the words whose ids are marked in `untrained` NxT: the model has one vector for all of them."""
    words = {}  # as an ordered set
    for n in untrained.any(1).nonzero()[:, 0].tolist():
        for word, places in shared_tokenizer().words(ids[n].tolist()):
            if untrained[n, places].any():
                words[word] = None
    if words:
        listed = ", ".join(list(words)[:8]) + (", ..." if len(words) > 8 else "")
        message = f"This model never saw these words in training: {listed}."
        warnings.warn(message, UntrainedTokenWarning, stacklevel=4)


# ---------------------------------------------------------------- files


def save_clip(model: CLIP, path: str | Path, token_ids: Tensor, card: dict) -> None:
    """Write a model as a small fp16 safetensors file, of the token embeddings only those of `token_ids` [n].

    `card` (JSON values) tells how it was made. The file is complete or absent, never half written.
    """
    ids = token_ids.unique().cpu()
    tensors = stored(model.state_dict())
    rows = tensors.pop("token_embedding.weight")[ids]
    tensors |= {"token_embedding.ids": ids.int(), "token_embedding.rows": rows}
    save_weights(tensors, path, "clip", asdict(model.config), card)


def load_clip(name: str | Path = "tiny", pretrained: str | Path | None = "openai", device: str = "cpu",
              dtype: torch.dtype = torch.float32) -> CLIP:
    """A CLIP in evaluation mode, with `.config` (its shape) and `.card` (how it was made).

    name: a model that ships with the package ("tiny"), a path to a file of `save_clip`, or one of open_clip's
    names for OpenAI's models ("ViT-B-32", "RN50"), fetched through open_clip and loaded strictly.
    pretrained, for the latter: a tag of open_clip, a file with such a state dict (safetensors, PyTorch's, OpenAI's own
    archive), or None: random weights. ValueError for an unknown name or tag, FileNotFoundError for a path without a
    file; RuntimeError for a file that holds something else or is damaged, or where there is no network.
    """
    ours = str(name).endswith(".safetensors") or (DATA / f"{name}.safetensors").is_file()
    model = _load_file(name) if ours else _load_open_clip(str(name), pretrained)
    return model.to(device, dtype).eval()


def export_open_clip(model: CLIP, path: str | Path) -> dict:
    """Write all weights (fp32 safetensors) and return the configuration of the same model in open_clip.

    `open_clip.model.CLIP(**config)` loads the file strictly and has equal outputs.
    """
    c = model.config
    vision = {"image_size": c.image_size, "layers": c.vision_layers, "width": c.vision_width,
              "head_width": c.vision_width * (1 if c.is_vit else 32) // c.vision_heads}
    vision |= {"patch_size": c.patch_size, "pool_type": c.pool} if c.is_vit else {}
    text = {"context_length": c.context_length, "vocab_size": c.vocab_size, "width": c.text_width,
            "heads": c.text_heads, "layers": c.text_layers}
    config = {"embed_dim": c.embed_dim, "vision_cfg": vision, "text_cfg": text, "quick_gelu": True}
    write(stored(model.state_dict(), torch.float32), path, {"open_clip": json.dumps(config)})
    return config


def _load_file(path: str | Path) -> CLIP:
    if _is_foreign(path):
        raise ValueError(f"{path} does not hold weights of the kind 'clip': for a state dict of another origin give "
                         'its model\'s name, too, as in load_clip("RN50", file).')
    tensors, config, card = load_weights(path, "clip")
    model = CLIP(CLIPConfig(**config))
    model.card = card
    ids, rows = tensors.pop("token_embedding.ids").long(), tensors.pop("token_embedding.rows").float()
    table = rows.mean(0).expand(model.config.vocab_size, -1).clone()  # one vector for all tokens never seen
    table[ids] = rows
    model.load_state_dict(tensors | {"token_embedding.weight": table})
    model.trained_tokens.fill_(False)[ids] = True
    return model


def _is_foreign(path: str | Path) -> bool:
    """Is it a sound safetensors file that `save_clip` did not write?"""
    try:
        with safe_open(path, "pt") as file:
            return "kind" not in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _load_open_clip(name: str, pretrained: str | Path | None) -> CLIP:
    import open_clip

    names = open_clip.list_pretrained_models_by_tag("openai")
    if name not in names:
        hint = ' Give a file as pretrained=, with its model\'s name: load_clip("RN50", file).' if _is_path(name) else ""
        raise ValueError(f"There is no CLIP {name!r}. Shipped: {shipped('clip')}; through open_clip: {names}.{hint}")
    model = CLIP(_openai_config(name))
    model.card = {"name": name, "pretrained": str(pretrained) if pretrained else "random weights"}
    if pretrained is not None:
        file = pretrained if _is_path(pretrained) else _fetch(name, str(pretrained))
        fit(model, read_state_dict(file), file)
        model.card["sha256"] = digest(file)
    return model


def _is_path(name: str | Path) -> bool:
    """A file, or the name of one that is not there: names and tags have no ending and no separator."""
    path = Path(name)
    return isinstance(name, Path) or path.is_file() or bool(path.suffix) or len(path.parts) > 1


def _openai_config(name: str) -> CLIPConfig:
    import open_clip

    shape = open_clip.get_model_config(name)
    vision, text = shape["vision_cfg"], shape["text_cfg"]
    return CLIPConfig(
        shape["embed_dim"], vision["image_size"], vision["layers"], vision["width"], vision["patch_size"],
        text["context_length"], text["vocab_size"], text["width"], text["layers"], text_heads=text["heads"])


def _fetch(name: str, tag: str) -> str:
    import open_clip
    from huggingface_hub import hf_hub_download

    tags = [t for t in open_clip.list_pretrained_tags_by_model(name)
            if open_clip.get_pretrained_cfg(name, t).get("quick_gelu")]  # others were trained with exact GELU
    if tag not in tags:
        raise ValueError(f"{name} has no weights {tag!r} trained with QuickGELU, only these: {tags}.")
    config = open_clip.get_pretrained_cfg(name, tag)
    repository = config.get("hf_hub", "").rstrip("/")
    commit, sha256 = PINNED.get(repository, (None, None))
    try:
        if commit:
            file = hf_hub_download(repository, "open_clip_model.safetensors", revision=commit)
        elif "mlfoundations" in config.get("url", ""):  # its name holds a digest, which open_clip checks
            return open_clip.download_pretrained(config, prefer_hf_hub=False)
        else:
            commit = pinned_commit(repository)
            file = open_clip.pretrained.download_pretrained_from_hf(repository, revision=commit)
    except PinError:
        raise
    except Exception as error:
        raise RuntimeError(
            f"The weights {tag!r} of {name} could not be fetched ({type(error).__name__}: {error}): go online once, "
            "or give pretrained= a file with the state dict.") from error
    check_digest(file, repository, commit, sha256)
    return file
