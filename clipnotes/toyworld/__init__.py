"""The toy world: pictures of emoji, made by code on tensors, with captions, masks, boxes and depth; films; solids;
sounds.

Placement, labels, boxes and depth are integer arithmetic, so they are equal to the bit under a seed on any machine;
pixels agree within one level. Every generator returns a plain dict of tensors and lists; `as_dataset` wraps it with
the columns of a real data set, and `Stream` feeds a training loop. Films: `from clipnotes.toyworld import films`;
solids and their clouds: `from clipnotes.toyworld import solids`; pictures for detectors:
`from clipnotes.toyworld import detection`; sounds: `from clipnotes.toyworld import sounds`.
"""

from clipnotes.grammar import concepts
from clipnotes.toyworld import detection, films, solids, sounds
from clipnotes.toyworld.drawings import (
    HELD_OUT_STYLE,
    STYLES,
    TRAIN_STYLES,
    VERSION,
    name_indices,
    names,
    sprites,
)
from clipnotes.toyworld.painting import LOWER, edges
from clipnotes.toyworld.pictures import counted, crops, line_art, renders, singles
from clipnotes.toyworld.scenery import (
    batch_seed,
    episodes,
    label_map,
    label_names,
    perspective,
    postcard,
    scenes,
)
from clipnotes.toyworld.training import (
    MIX,
    Stream,
    as_dataset,
    detection_hash,
    generator_hash,
    pretraining,
    sounds_hash,
)

__all__ = [
    "HELD_OUT_STYLE", "LOWER", "MIX", "STYLES", "TRAIN_STYLES", "VERSION", "Stream", "as_dataset", "batch_seed",
    "concepts", "counted", "crops", "detection", "detection_hash", "edges", "episodes", "films", "generator_hash",
    "label_map", "label_names", "line_art", "name_indices", "names", "perspective", "postcard", "pretraining",
    "renders", "scenes", "singles", "solids", "sounds", "sounds_hash", "sprites",
]
