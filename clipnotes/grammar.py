"""The words of the toy world: what captions say, fixed before anything is trained.

What no caption says, no later chapter can ask: every prompt of every chapter is made of `words()`, and a test holds
that. A caption is plain English built from a few lists: names, tints, counts, sizes, places, grounds, verbs,
distances, styles. Functions take Python integers and a `random.Random`; nothing here touches a picture.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

TINTS = {"red": (214, 40, 40), "orange": (245, 130, 32), "yellow": (246, 210, 50), "green": (60, 160, 70),
         "blue": (45, 105, 215), "purple": (135, 70, 190), "pink": (245, 130, 180), "brown": (130, 85, 50)}
COUNTS = ("one", "two", "three", "four", "five")
SIZES = {"small": ("small", "tiny", "little"), "big": ("big", "large", "huge")}
PLACES = ("at the top left", "at the top", "at the top right", "on the left", "in the middle", "on the right",
          "at the bottom left", "at the bottom", "at the bottom right")
REGIONS = ("sky", "grass", "water", "sand", "wall", "floor", "road")
ON = {"sky": "in the sky", "grass": "on the grass", "water": "in the water", "sand": "on the sand",
      "wall": "in front of the wall", "floor": "on the floor", "road": "on the road"}
# Distance words, near to far; each holds for objects up to so many metres away.
DISTANCES = {"very close": 1.5, "close": 2.5, "near": 4.0, "a little far": 6.5, "far": 10.0, "very far": 20.0}
# Words that later chapters ask about on purpose although no caption ever says them.
NEVER_TRAINED = ("unseen", "remote", "zorgle")

# "{}" is a noun phrase with its article: "a small red dog".
TEMPLATES = ("{}", "a photo of {}", "a picture of {}", "an image of {}", "a drawing of {}", "an icon of {}",
             "a cartoon of {}", "a painting of {}", "a video of {}", "a clip of {}", "a frame with {}", "this is {}",
             "there is {} in the scene", "a scene with {}", "here is {}", "look at {}", "we see {}",
             "an example of {}", "the action of {}", "the sound of {}")
# New sentences of known words: prompts that training never saw.
HELD_OUT_TEMPLATES = ("this is a photo of {}", "here is a picture of {}", "a view of {} in this scene",
                      "look at this drawing of {}", "there is {} in the picture", "we see an image of {}")
STYLE_TEMPLATES = {
    "crop": ("a cropped photo of {}", "a close-up of {}", "a small photo of {}", "a view of {}",
             "a blurry photo of {}"),
    "silhouette": ("a silhouette of {}", "the shadow of {}", "a dark shape of {}"),
    "outline": ("an outline of {}", "the contour of {}", "a line drawing of {}"),
    "edges": ("a sketch of {}", "a pencil drawing of {}", "a line drawing of {}"),
    "solid": ("a render of {}", "a grey render of {}", "a 3d model of {}", "a shaded render of {}"),
}
# event: what a still picture can show of it
VERBS = {"fade": ("appears", "vanishes", "fades"), "big": ("grows", "comes closer"), "small": ("shrinks", "goes away"),
         "left": ("moves left", "goes left"), "right": ("moves right", "goes right"), "top": ("moves up", "rises"),
         "bottom": ("moves down", "falls"), "turned": ("spins", "turns", "rotates"), "squashed": ("bounces", "jumps"),
         "sky": ("flies",), "water": ("swims",), "grass": ("stands", "runs"), "sand": ("stands", "walks"),
         "road": ("stops", "moves"), "floor": ("stands", "sits"), "wall": ("waits", "stands")}
# Sentences around a name whose other words say nothing of the picture: later chapters ask with these words.
FILLERS = ("what is {}", "what color is {}", "how many {}", "is there {}", "yes , {}", "no , not {}", "what other {}",
             "rain on {}", "music for {}", "the object is {}", "all of {}", "the background of {}", "{} comes after",
             "{} comes before", "none of {}")
RELATIONS = {"beside": ("next to", "beside"), "left": ("left of", "to the left of"),
             "right": ("right of", "to the right of"), "above": ("above", "over"), "below": ("below", "under")}
SOLIDS = ("cube", "sphere", "cylinder", "cone", "pyramid", "torus", "capsule", "chair", "table", "stool", "bench",
          "bed", "sofa", "lamp", "shelf", "cup", "bottle", "barbell", "arch", "stairs", "airplane", "rocket")

# The few prompts that chapters write themselves; the rest come from the lists above.
PROMPTS = {
    "01_clip": ("a photo of an animal", "three dogs", "two red apples", "a dog left of a cat", "a photo of the sky"),
    "02_lseg": ("other", "background", "pet", "animal", "vehicle", "fruit", "building", "instrument", "plant",
                "toy dog", "the wall", "the floor"),
    "03_groupvit": ("a photo of a small red dog on the grass and an ice cream", "look at this", "a drawing of the sky"),
    "04_vild": ("there is a small dog in the scene", "a photo of the background"),
    "05_glip": ("dog and cat and apple", "the dog on the left", "a small red apple at the top left"),
    "07_clipasso": ("a sketch of a dog", "a line drawing of a cat"),
    "08_clip4clip": ("a dog moves left and then a cat appears", "first a dog and then a cat", "a dog turns red"),
    "09_actionclip": ("a video of a dog that spins", "the action of a dog that jumps", "a dog shrinks"),
    "10_clip_vil": ("what is on the left", "what color is the dog", "how many dogs", "yes", "no", "is there a cat"),
    "11_audioclip": ("the sound of a dog", "rain", "music"),
    "12_pointclip": ("a grey render of a chair", "a silhouette of a cube", "a 3d model of a table"),
    "13_depthclip": ("this object is very close", "this dog is far", "this object is a little far"),
}

_ADRIFT = {"grapes", "fries", "skis", "jeans", "glasses", "headphones", "gloves", "socks", "scissors", "pancakes",
           "corn", "bread", "cheese", "meat", "bacon", "salad", "popcorn", "sushi", "spaghetti", "ice cream", "honey",
           "milk", "wine", "beer", "tea", "juice", "chocolate", "tennis", "bowling", "badminton", "fire", "lightning"}
_IRREGULAR = {"sheep": "sheep", "fish": "fish", "deer": "deer", "mouse": "mice", "wolf": "wolves", "knife": "knives",
              "maple leaf": "maple leaves", "scarf": "scarves", "tomato": "tomatoes",
              "potato": "potatoes", "volcano": "volcanoes", "die": "dice", "shrimp": "shrimp", "squid": "squid"}


@dataclass(frozen=True)
class Concept:
    """One thing of the toy world. `split`: "novel" concepts are named in captions, as everything is, but are never
    labelled when a detector or a segmenter is trained. `styles`: the artists who drew it."""

    name: str
    zh: str
    category: str
    keywords: tuple[str, ...]
    styles: tuple[str, ...]
    split: str


@cache
def concepts() -> tuple[Concept, ...]:
    """The concepts in the order of the sprite sheets; a label is an index into this tuple."""
    rows = json.loads((Path(__file__).parent / "data" / "sprites.json").read_text("utf-8"))["concepts"]
    return tuple(Concept(r["name"], r["zh"], r["category"], tuple(r["keywords"]), tuple(r["styles"]), r["split"])
                 for r in rows)


def plural(name: str) -> str:
    """The plural of a name: "dog" -> "dogs"; a thing that has none is returned as it is."""
    if name in _IRREGULAR:
        return _IRREGULAR[name]
    if name in _ADRIFT:
        return name
    if re.search(r"(s|sh|ch|x)$", name):
        return name + "es"
    return re.sub(r"y$", "ie", name) + "s" if re.search(r"[^aeiou]y$", name) else name + "s"


def countable(name: str) -> bool:
    """Whether "three …s" makes sense."""
    return name not in _ADRIFT


def article(phrase: str) -> str:
    """The phrase with "a" or "an" in front, or bare where English has no article."""
    bare = phrase.split()[-1] in _ADRIFT or phrase in _ADRIFT
    return phrase if bare else ("an " if phrase[0] in "aeiou" and not phrase.startswith("uni") else "a ") + phrase


def noun(index: int, rng: Random, general: float = 0.15, explain: bool = True) -> str:
    """A concept's name; in a share `general` of cases its category, a keyword, or (if it may be explained)
    "name , a kind of category"."""
    concept = concepts()[index]
    if rng.random() >= general:
        return concept.name
    wider = [concept.category, *concept.keywords]
    explained = f"{concept.name} , a kind of {concept.category}" if explain else concept.name
    return rng.choice([rng.choice(wider), concept.category, explained])


def phrase(index: int, rng: Random, tint: int = -1, size: str = "", explain: bool = True) -> str:
    """A noun phrase without article: "small red dog". `tint` indexes TINTS (-1: its own colours)."""
    words = [rng.choice(SIZES[size])] if size and rng.random() < 0.5 else []
    if tint >= 0 and rng.random() < 0.85:
        words.append(list(TINTS)[tint])
    return " ".join([*words, noun(index, rng, explain=explain)])


def single(index: int, rng: Random, *, tint: int = -1, size: str = "", place: int = -1, ground: str = "",
           colour: str = "", cue: str = "", templates: tuple[str, ...] = TEMPLATES) -> str:
    """The caption of one object. `place` indexes PLACES, `ground` is a region, `colour` that of a plain ground,
    `cue` a key of VERBS; at most one of them is told."""
    subject = article(phrase(index, rng, tint, size))
    extras = []
    if place >= 0:
        extras.append(PLACES[place])
    if ground:
        extras += [ON[ground]] * 2
    if colour:
        extras.append(f"on a {colour} background")
    if cue:
        extras.append("that " + rng.choice(VERBS[cue]))
    if tint >= 0 and rng.random() < 0.1:
        subject, extras = article(noun(index, rng)), [f"that turns {list(TINTS)[tint]}"]
    if extras and rng.random() < 0.4:
        subject += " " + rng.choice(extras)
    if "that " in subject and rng.random() < 0.5:  # "a dog that flies" or "a dog flies"
        return subject.replace("that ", "", 1)
    return rng.choice(FILLERS if rng.random() < 0.04 else templates).format(subject)


def several(index: int, count: int, rng: Random, tint: int = -1) -> str:
    """The caption of `count` equal objects: "three red dogs"."""
    colour = list(TINTS)[tint] + " " if tint >= 0 else ""
    name = concepts()[index].name
    subject = f"{COUNTS[count - 1]} {colour}{plural(name) if count > 1 else name}"
    return rng.choice(TEMPLATES).format(subject)


def scene(objects: list[dict], upper: str, lower: str, rng: Random) -> tuple[str, list[str]]:
    """The caption of several objects over two regions, and one noun phrase an object.

    `objects`: dicts with index, tint, size, place, ground, x, y. Returns (caption, phrases).
    """
    phrases = [article(phrase(o["index"], rng, o["tint"], o["size"], explain=False)) for o in objects]
    told = []
    for o, text in zip(objects, phrases, strict=True):
        r = rng.random()
        told.append(f"{text} {ON[o['ground']]}" if r < 0.3 else f"{text} {PLACES[o['place']]}" if r < 0.55 else text)
    if len(objects) > 1 and rng.random() < 0.3:
        told = [_related(objects[0], objects[1], phrases, rng), *told[2:]]
    elif rng.random() < 0.08:
        told[0] = "first " + told[0]
        told[1:] = ["then " + t for t in told[1:]]
    caption = " and ".join(told)
    if rng.random() < 0.2:
        caption += f" , the {lower} is the background" if rng.random() < 0.5 else f" , {upper} and {lower}"
    return rng.choice(TEMPLATES).format(caption), phrases


def _related(a: dict, b: dict, phrases: list[str], rng: Random) -> str:
    dx, dy = b["x"] - a["x"], b["y"] - a["y"]
    side = ("left" if dx > 0 else "right") if abs(dx) > abs(dy) else ("above" if dy > 0 else "below")
    return f"{phrases[0]} {rng.choice(RELATIONS[side if rng.random() < 0.75 else 'beside'])} {phrases[1]}"


def distance(metres: float) -> str:
    """The distance word that holds for an object so many metres away."""
    return next((word for word, limit in DISTANCES.items() if metres <= limit), "very far")


def depth(objects: list[tuple[int, float]], rng: Random) -> str:
    """The caption of a perspective scene of one or two objects, (index, metres) each, the nearer one last."""
    if len(objects) > 1 and rng.random() < 0.4:
        behind, front = (article(noun(index, rng, explain=False)) for index, _ in objects[-2:])
        return rng.choice(TEMPLATES).format(rng.choice((f"{front} in front of {behind}", f"{behind} behind {front}")))
    index, metres = rng.choice(objects)
    word, name = distance(metres), noun(index, rng)
    subject = "object" if rng.random() < 0.25 else name
    return rng.choice((f"this {subject} is {word}", f"the {subject} is {word}", f"{article(subject)} that is {word}",
                       f"a photo of {article(subject)} {word}", f"a scene with {article(subject)} that is {word}"))


@cache
def words() -> frozenset[str]:
    """Every word that some caption says (lower case), so every word that has a meaning for the tiny CLIP."""
    texts = [*TINTS, *COUNTS, *PLACES, *REGIONS, *ON.values(), *DISTANCES, *TEMPLATES, *RELATIONS, *SOLIDS, *FILLERS]
    for group in (*SIZES.values(), *STYLE_TEMPLATES.values(), *VERBS.values(), *RELATIONS.values()):
        texts += group
    for c in concepts():
        texts += [c.name, plural(c.name), c.category, *c.keywords]
    texts += ["white black grey background", "first and then , the that is this object a an kind of turns",
              "in front of behind"]
    found = {w for t in texts for w in re.findall(r"[a-z0-9-]+|,", t.lower())}
    return frozenset(found)


def unknown_words(text: str) -> list[str]:
    """The words of a text that no caption ever says."""
    return [w for w in re.findall(r"[a-z0-9-]+", text.lower()) if w not in words()]
