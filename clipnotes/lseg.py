"""LSeg from scratch: a word for every pixel (Li et al. 2022, arXiv:2201.03546). Chapter 2 builds it.

Weights have the names of the release (isl-org/lang-seg): `pretrained` is the image encoder, `scratch` the
decoder and its head, `clip_pretrained` the frozen CLIP that reads the labels. `load_lseg` reads a trained one.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipnotes.clip import CLIP, VisionTransformer, check_images, load_clip
from clipnotes.prompts import class_embeddings
from clipnotes.weights import load_weights, save_weights, stored

TEMPERATURE = 0.07  # a constant: no training step ever changes it


@dataclass
class LSegConfig:
    """The shape of an LSeg. The image tower is a ViT of `layers` blocks; `hooks` are the four that are read.

    `factors`: how each map is scaled against the grid of patches; with patches of 16 pixels (4, 2, 1, 0.5),
    with patches of 8 half of that, so that the maps have strides of 4, 8, 16 and 32 pixels (DPT, section 3.2).
    `block`: "none", "bottleneck" or "depthwise", applied `depth` times.
    """

    patch_size: int = 8
    width: int = 128
    layers: int = 5
    heads: int = 2
    hooks: tuple[int, ...] = (1, 2, 3, 4)
    factors: tuple[float, ...] = (2, 1, 0.5, 0.25)
    channels: tuple[int, ...] = (64, 64, 64, 64)
    features: int = 64
    embed_dim: int = 128
    block: str = "none"
    depth: int = 0
    image_size: int = 64  # only the grid of learned positions follows from it: other sizes are interpolated

    def __post_init__(self) -> None:
        self.hooks, self.factors, self.channels = tuple(self.hooks), tuple(self.factors), tuple(self.channels)
        if not len(self.hooks) == len(self.factors) == len(self.channels) == 4:
            raise ValueError("Four depths are read: give four hooks, factors and numbers of channels.")
        if not 0 <= min(self.hooks) <= max(self.hooks) < self.layers:
            raise ValueError(f"Hooks are numbers of blocks, 0 to {self.layers - 1}, not {self.hooks}.")
        if self.block not in BLOCKS:
            raise ValueError(f"block is one of {', '.join(BLOCKS)}, not {self.block!r}.")
        if self.depth < 0 or (self.block == "none") != (self.depth == 0):
            raise ValueError('A block needs a depth of at least 1, and "none" needs 0.')


def official_config(**changes) -> LSegConfig:
    """The shape of the released ViT-L/16 model: the same classes, other numbers."""
    shape = dict(patch_size=16, width=1024, layers=24, heads=16, hooks=(5, 11, 17, 23),
                 factors=(4, 2, 1, 0.5), channels=(256, 512, 1024, 1024), features=256, embed_dim=512,
                 image_size=384)
    return LSegConfig(**shape | changes)


# ---------------------------------------------------------------- the image encoder: hooks and reassemble


class ProjectReadout(nn.Module):
    """Tokens B×(1+N)×C -> B×N×C: each patch gets to know the class token."""

    def __init__(self, width: int):
        super().__init__()
        self.project = nn.Sequential(nn.Linear(2 * width, width), nn.GELU())

    def forward(self, tokens: Tensor) -> Tensor:
        patches = tokens[:, 1:]
        whole = tokens[:, :1].expand_as(patches)
        return self.project(torch.cat([patches, whole], dim=-1))


class Reassemble(nn.Sequential):
    """Tokens B×(1+h·w)×C -> a map B×E×H'×W', `factor` times the grid h×w."""

    def __init__(self, width: int, channels: int, factor: float):
        steps = OrderedDict()  # 1 and 2 are reshapes in the release
        steps["0"] = ProjectReadout(width)
        steps["3"] = nn.Conv2d(width, channels, 1)
        if factor > 1:
            k = int(factor)
            steps["4"] = nn.ConvTranspose2d(channels, channels, k, stride=k)
        elif factor < 1:
            k = round(1 / factor)
            steps["4"] = nn.Conv2d(channels, channels, 3, stride=k, padding=1)
        super().__init__(steps)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        readout, *convolutions = self
        x = readout(tokens).transpose(1, 2).unflatten(2, grid)  # B×C×h×w
        for convolution in convolutions:
            x = convolution(x)
        return x


class DenseEncoder(nn.Module):
    """Standardised images B×3×H×W -> four maps, from four depths of a ViT."""

    def __init__(self, config: LSegConfig):
        super().__init__()
        self.hooks = config.hooks
        self.model = VisionTransformer(
            config.image_size, config.patch_size, config.width, config.layers, config.heads, config.embed_dim)
        del self.model.ln_post, self.model.proj  # only the blocks are read
        shapes = zip(config.channels, config.factors, strict=True)
        for i, shape in enumerate(shapes, 1):
            fold = Reassemble(config.width, *shape)
            self.add_module(f"act_postprocess{i}", fold)

    def forward(self, x: Tensor) -> list[Tensor]:
        patch = self.model.patch_size
        grid = (x.shape[-2] // patch, x.shape[-1] // patch)
        tokens, maps = self.model.layers(x), []
        for i, hook in enumerate(self.hooks, 1):
            fold = getattr(self, f"act_postprocess{i}")
            maps.append(fold(tokens[hook], grid))  # B×E×H'×W'
        return maps


# ---------------------------------------------------------------- the decoder: fusion


class ResidualConvUnit(nn.Module):
    """A map B×F×h×w plus what two convolutions make of it."""

    def __init__(self, features: int):
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.bn2 = nn.BatchNorm2d(features)
        nn.init.zeros_(self.bn2.weight)  # a new unit is its input alone

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(F.relu(x)))
        return x + self.bn2(self.conv2(F.relu(out)))


def twice_as_large(x: Tensor) -> Tensor:
    """B×C×h×w -> B×C×2h×2w, bilinear; the corners stay in the corners."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class FeatureFusionBlock(nn.Module):
    """The coarse path B×F×h×w and a finer map of that size -> B×F×2h×2w."""

    def __init__(self, features: int):
        super().__init__()
        self.resConfUnit1 = ResidualConvUnit(features)
        self.resConfUnit2 = ResidualConvUnit(features)
        self.out_conv = nn.Conv2d(features, features, 1)
        nn.init.dirac_(self.out_conv.weight)  # a new block passes its input on

    def forward(self, path: Tensor, skip: Tensor | None = None) -> Tensor:
        if skip is not None:
            path = path + self.resConfUnit1(skip)
        return self.out_conv(twice_as_large(self.resConfUnit2(path)))


# ---------------------------------------------------------------- pixels meet words


def pixel_text_product(pixels: Tensor, text_emb: Tensor) -> Tensor:
    """Pixels B×D×h×w, words K×D -> logits B×K×h×w: cosines over 0.07."""
    pixels = F.normalize(pixels.float(), dim=1)
    text_emb = F.normalize(text_emb.float(), dim=1)
    return torch.einsum("bdhw,kd->bkhw", pixels, text_emb) / TEMPERATURE


class SharedFilter(nn.Module):
    """One 3×3 filter for every label's map: ten weights for any labels."""

    def __init__(self):
        super().__init__()
        self.depthwise = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        maps = x.flatten(0, 1).unsqueeze(1)  # (B·K)×1×h×w
        return self.depthwise(maps).view_as(x)


class DepthwiseBlock(nn.Module):
    """Logits B×K×h×w -> the same: each label's map is smoothed by itself."""

    def __init__(self, activation: Callable = F.leaky_relu):
        super().__init__()
        self.depthwise = SharedFilter()
        self.activation = activation

    def forward(self, x: Tensor, activate: bool = True) -> Tensor:
        x = self.depthwise(x)
        return self.activation(x) if activate else x


class BottleneckBlock(DepthwiseBlock):
    """As DepthwiseBlock, plus the strongest label of each pixel."""

    def forward(self, x: Tensor, activate: bool = True) -> Tensor:
        x = self.depthwise(x) + x.max(dim=1, keepdim=True).values
        return self.activation(x) if activate else x


BLOCKS = {"none": None, "depthwise": DepthwiseBlock, "bottleneck": BottleneckBlock}


def regularise(block: nn.Module, logits: Tensor, depth: int) -> Tensor:
    """The same block `depth` times, the last time without activation."""
    for step in range(depth):
        logits = block(logits, activate=step < depth - 1)
    return logits


class PixelTextHead(nn.Module):
    """The decoder's last map B×F×h×w, words K×D -> logits B×K×2h×2w."""

    def __init__(self, features: int, embed_dim: int, block: str = "none", depth: int = 0):
        super().__init__()
        self.head1 = nn.Conv2d(features, embed_dim, 1)
        self.depth = depth
        if depth:
            self.head_block = BLOCKS[block]()

    def product(self, path_1: Tensor, text_emb: Tensor) -> Tensor:
        """-> logits B×K×h×w, before they are scaled up."""
        logits = pixel_text_product(self.head1(path_1), text_emb)
        if self.depth:
            logits = regularise(self.head_block, logits, self.depth)
        return logits

    def forward(self, path_1: Tensor, text_emb: Tensor) -> Tensor:
        return twice_as_large(self.product(path_1, text_emb))


class Decoder(PixelTextHead):
    """Four maps, from coarse to fine, become one; then pixels meet words."""

    def __init__(self, config: LSegConfig):
        features = config.features
        super().__init__(features, config.embed_dim, config.block, config.depth)
        for i, channels in enumerate(config.channels, 1):
            narrow = nn.Conv2d(channels, features, 3, padding=1, bias=False)
            self.add_module(f"layer{i}_rn", narrow)
            self.add_module(f"refinenet{i}", FeatureFusionBlock(features))

    def fuse(self, maps: list[Tensor]) -> Tensor:
        """-> path_1, B×F×H/2×W/2."""
        path = self.refinenet4(self.layer4_rn(maps[3]))
        path = self.refinenet3(path, self.layer3_rn(maps[2]))
        path = self.refinenet2(path, self.layer2_rn(maps[1]))
        return self.refinenet1(path, self.layer1_rn(maps[0]))


# ---------------------------------------------------------------- the model


def check_labels(labels: Sequence[str]) -> list[str]:
    """The labels as a list; ValueError for what is no list of different words."""
    words = [label for label in labels if isinstance(label, str)]
    if isinstance(labels, str) or len(words) < len(labels):
        raise ValueError("Labels are a list of words, such as ['dog', 'tree', 'other'].")
    if not words:
        raise ValueError("There are no labels: give at least one word.")
    for word in words:
        if words.count(word) > 1:
            raise ValueError(f"The label {word!r} is given twice: a pixel could not choose. "
                             "Name each label once.")
    return words


class LSeg(nn.Module):
    """Images and any words -> a logit a pixel and word. CLIP, frozen, reads the words."""

    def __init__(self, config: LSegConfig, clip: CLIP):
        super().__init__()
        self.config = config
        self.card: dict = {}  # how the weights were made
        self.clip_pretrained = clip.requires_grad_(False).eval()
        self.pretrained = DenseEncoder(config)
        self.scratch = Decoder(config)

    def train(self, mode: bool = True) -> "LSeg":
        super().train(mode)
        self.clip_pretrained.eval()
        return self

    @torch.no_grad()
    def encode_labels(self, labels: Sequence[str], templates: Sequence[str] = ("{}",)) -> Tensor:
        """Different words -> unit vectors K×D, from the frozen text tower."""
        words = check_labels(labels)
        return class_embeddings(self.clip_pretrained, words, templates)

    def path_1(self, images: Tensor) -> Tensor:
        """Images B×3×H×W in [0, 1] -> the decoder's last map B×F×H/2×W/2."""
        check_images(images, max(self.pretrained.model.patch_size, 32))  # the coarsest map has a stride of 32
        x = self.clip_pretrained.standardise(images)
        return self.scratch.fuse(self.pretrained(x))

    def forward(self, images: Tensor, labels: Sequence[str] | Tensor) -> Tensor:
        """Images B×3×H×W in [0, 1], H and W multiples of 32; K words or their vectors K×D -> B×K×H×W."""
        if not isinstance(labels, Tensor):
            labels = self.encode_labels(labels)
        return self.scratch(self.path_1(images), labels)

    @torch.no_grad()
    def segment(self, images: Tensor, labels: Sequence[str] | Tensor) -> Tensor:
        """-> B×H×W integers: the index of each pixel's word."""
        return self(images, labels).argmax(1)


def start_from_clip(model: LSeg) -> LSeg:
    """Give the image encoder the frozen CLIP's weights; one of fewer blocks gets the first ones."""
    tower = model.pretrained.model
    state = model.clip_pretrained.visual.state_dict()
    tower.load_state_dict({name: state[name] for name in tower.state_dict()})
    return model


# ---------------------------------------------------------------- files


def save_lseg(model: LSeg, path: str | Path, card: dict) -> None:
    """Write what was trained (fp16), its shape and how it was made; the frozen CLIP is not written again."""
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("clip_pretrained.")}
    save_weights(stored(state), path, "lseg", asdict(model.config), card)


def load_lseg(path: str | Path, clip: CLIP | None = None) -> LSeg:
    """A model of `save_lseg`, in evaluation mode: a file, or the name of one that ships ("02_lseg/lseg").

    clip: the frozen CLIP whose text tower it was trained with; the tiny one, if none is given.
    FileNotFoundError where there is no such file, ValueError where it holds something else, RuntimeError where
    it is damaged or belongs to another toy world.
    """
    tensors, config, card = load_weights(path, "lseg")
    clip = clip or load_clip("tiny")
    model = LSeg(LSegConfig(**config), clip)
    model.card = card
    model.load_state_dict(tensors | {f"clip_pretrained.{k}": v for k, v in clip.state_dict().items()})
    return model.to(clip.image_mean.device).eval()
