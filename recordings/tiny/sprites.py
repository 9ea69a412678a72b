"""Render the emoji of the toy world into sprite sheets: clipnotes/data/sprites.*.

    npm install --ignore-scripts --prefix build/emoji $(python recordings/tiny/sprites.py --packages)
    python recordings/tiny/sprites.py build/emoji/node_modules

Needs resvg_py and pillow. Each artist ("style") becomes one lossless WebP sheet of 64 px tiles, in the order of
CONCEPTS; a tile that an artist never drew is left empty. `sprites.json` records names, keywords, Chinese names,
which tiles exist, package versions and the sha256 of each sheet.
"""

import argparse
import hashlib
import io
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from PIL import Image

from clipnotes.files import PACKAGE, atomic_write

TILE, COLUMNS = 64, 20
DATA = PACKAGE / "data"

# style: (npm package, version, licence, attribution)
STYLES = {
    "noto": ("@iconify-json/noto", "1.2.9", "Apache-2.0", "Noto Emoji, Google"),
    "twemoji": ("@iconify-json/twemoji", "1.2.5", "CC-BY-4.0", "Twemoji, Twitter and contributors"),
    "fluent": ("@iconify-json/fluent-emoji-flat", "1.2.6", "MIT", "Fluent Emoji, Microsoft"),
    "fluent3d": ("@lobehub/fluent-emoji-3d", "1.1.0", "MIT", "Fluent Emoji 3D, Microsoft"),
    "fxemoji": ("@iconify-json/fxemoji", "1.2.2", "Apache-2.0", "FxEmoji, Mozilla"),
    "notov1": ("@iconify-json/noto-v1", "1.2.5", "Apache-2.0", "Noto Emoji version 1, Google"),
    "emojitwo": ("@iconify-json/emojione", "1.2.3", "CC-BY-4.0", "EmojiTwo, the EmojiTwo contributors"),
    "openmoji": ("@iconify-json/openmoji", "1.2.29", "CC-BY-SA-4.0", "OpenMoji, HfG Schwäbisch Gmünd"),
}
NAMES_PACKAGE = ("emojibase-data", "17.0.0", "MIT", "Emojibase, Miles Johnson")

# category: our name, or "our name=emojibase label" where the two differ; "*" marks a novel concept: it is named in
# captions, as everything is, but never labelled when a detector or a segmenter is trained.
CONCEPTS = {
    "animal": """frog, turkey, rooster, chick=baby chick, *penguin, eagle, duck, *owl, snail, butterfly, ant, bee=honeybee,
        *ladybug=lady beetle, *scorpion, monkey, gorilla, dog, *wolf, fox, cat, lion, *tiger, leopard, horse, *unicorn,
        deer, cow, buffalo=water buffalo, pig, *boar, ram, sheep=ewe, goat, *camel, elephant, *rhino=rhinoceros, mouse,
        hamster, rabbit, *bat, bear, *koala, panda, whale=spouting whale, *dolphin, fish, pufferfish=blowfish, *shark,
        *octopus, shell=spiral shell, *crab, shrimp, squid, *crocodile, turtle, lizard, *snake, dragon, *giraffe, zebra,
        *kangaroo, flamingo, swan, parrot""",
    "plant": """rose, *sunflower, hibiscus, *tulip, bouquet, cactus, *palm tree, pine tree=evergreen tree,
        tree=deciduous tree, clover=four leaf clover, maple leaf, *mushroom, seedling""",
    "fruit": """grapes, melon, *watermelon, tangerine, lemon, banana, *pineapple, apple=red apple, pear, peach,
        *cherry=cherries, strawberry, kiwi=kiwi fruit, *avocado""",
    "vegetable": "tomato, eggplant, potato, *carrot, corn=ear of corn, cucumber, *broccoli, onion, *peanut=peanuts, chestnut",
    "food": """bread, *croissant, cheese=cheese wedge, hamburger, fries=french fries, *pizza, hot dog, *taco, burrito,
        fried egg=cooking, *sushi, rice ball, spaghetti, *meat=meat on bone, bacon, pancakes, salad=green salad, popcorn,
        pretzel, sandwich""",
    "dessert": """ice cream=soft ice cream, *donut=doughnut, cookie, *cake=birthday cake, chocolate=chocolate bar, candy,
        *lollipop, honey=honey pot, custard, pie""",
    "drink": """milk=glass of milk, coffee=hot beverage, *wine=wine glass, cocktail=cocktail glass, *beer=beer mug,
        tea=teacup without handle, champagne=bottle with popping cork, juice=tropical drink""",
    "building": """house, hospital, *school, factory, *castle, church, mosque, tent, *tower=Tokyo tower,
        statue=Statue of Liberty, *ferris wheel, fountain, bank, *circus=circus tent""",
    "vehicle": """train=locomotive, bus, *ambulance, fire truck=fire engine, police car, *taxi, car=automobile,
        truck=delivery truck, *tractor, scooter=motor scooter, bicycle, *motorcycle, helicopter, *rocket, airplane,
        sailboat, *canoe, speedboat, *ship, tram""",
    "sport": """soccer ball, *baseball, basketball, volleyball, football=american football, *tennis, bowling,
        *boxing glove, skis, *trophy, medal=sports medal, pool ball=pool 8 ball, badminton, dart=bullseye, kite""",
    "instrument": """saxophone, *trumpet, guitar, piano=musical keyboard, *violin, drum, *microphone, bell, headphones=headphone,
        flute""",
    "clothing": """glasses, *tie=necktie, shirt=t-shirt, jeans, dress, *kimono, handbag, *backpack, shoe=man’s shoe,
        sneaker=running shoe, boot=woman’s boot, *heel=high-heeled shoe, crown, hat=woman’s hat, *top hat, cap=billed cap, ring,
        *bikini, umbrella=umbrella with rain drops, scarf, gloves, *socks""",
    "tool": """hammer, *wrench, scissors, key, *lock=locked, knife=kitchen knife, bow=bow and arrow, *gear, syringe, *pill, bomb,
        *sword=crossed swords, pickaxe=pick, paperclip, ruler=straight ruler, *pushpin, axe, saw=carpentry saw, *magnet, ladder,
        pencil, broom""",
    "device": """phone=mobile phone, telephone, *laptop, television, camera, *radio, battery, light bulb, *flashlight,
        watch, alarm clock, *hourglass=hourglass done, magnifying glass=magnifying glass tilted left, microscope, *telescope,
        joystick, printer, plug=electric plug, *compass""",
    "thing": """door, *toilet, bathtub, bed, couch=couch and lamp, lantern=red paper lantern, *candle, chair, *gift=wrapped gift,
        balloon, book=closed book, *newspaper, envelope, scroll, briefcase, *mailbox=postbox, money bag, *diamond=gem stone,
        teddy bear, basket, *bucket, anchor, *puzzle=puzzle piece, wheel, die=game die, *coin, robot, ghost, *skull""",
    "weather": """sun, moon=crescent moon, star, *cloud, rainbow, *fire, lightning=high voltage, snowman=snowman without snow,
        *snowflake, volcano, drop=droplet, globe=globe showing Americas, *planet=ringed planet, wave=water wave""",
}

# Of emojibase's tags (many are jokes, brands and feelings) those that describe.
KEYWORDS = set("""bird insect pet farm zoo ocean beach desert flower forest tropical garden reptile citrus breakfast
    sweet boat music game clothes burger kitten bunny pasta sausage loaf slice beverage alcohol home emergency bike
    space snow prize award computer box mail paper flame gold mountain earth cold rain purse torch time science engine
    medicine weapon video king berry berries nut pudding grain mexican japanese tortoise serpent grizzly evergreen
    kettle cab railway pastry gem jewel jar bottle hoop racquet dice horns stripe spots jigsaw gem arrow bath bathroom
    electric cup chapel camping doctor letter news creature monster toy plaything""".split())


# Drawings that a name finds but that show another thing (looked at, one by one).
MISMATCHED = {("fxemoji", "bow"), ("fxemoji", "train"), ("fxemoji", "die")}


def squash(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def parse_concepts() -> list[dict]:
    rows = []
    for category, text in CONCEPTS.items():
        for entry in re.sub(r"\s+", " ", text).split(","):
            entry = entry.strip()
            name, _, label = entry.lstrip("*").partition("=")
            split = "novel" if entry.startswith("*") else "base"
            rows.append(dict(name=name, label=label or name, category=category, split=split))
    return rows


def codes(hexcode: str) -> set[str]:
    return {hexcode.lower(), hexcode.lower().replace("-fe0f", "")}


class Pack:
    """One artist's drawings: an Iconify JSON pack, or the folder of 3D renders."""

    def __init__(self, folder: Path):
        self.assets = {p.stem.replace("-fe0f", ""): p for p in (folder / "assets").glob("*.webp")}
        if not self.assets:
            self.icons = json.loads((folder / "icons.json").read_text("utf-8"))
            self.chars = json.loads((folder / "chars.json").read_text("utf-8"))
            self.names = {squash(n): n for n in [*self.icons["icons"], *self.icons.get("aliases", {})]}

    def find(self, concept: dict) -> str | Path | None:
        if self.assets:
            return next((self.assets[c] for c in codes(concept["hexcode"]) if c in self.assets), None)
        by_code = next((self.chars[c] for c in codes(concept["hexcode"]) if c in self.chars), None)
        by_name = [self.names.get(squash(n)) for n in (concept["label"], concept["name"])]
        return by_code or by_name[0] or by_name[1]

    def svg(self, name: str) -> str:
        icon = self.icons["icons"].get(name) or self.icons["aliases"][name]
        while "parent" in icon:
            icon = self.icons["icons"].get(icon["parent"]) or self.icons["aliases"][icon["parent"]]
        width = icon.get("width", self.icons.get("width", 16))
        height = icon.get("height", self.icons.get("height", 16))
        box = f'{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}'
        return f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" ' \
               f'viewBox="{box}" width="256" height="256">{icon["body"]}</svg>'

    def tile(self, found: str | Path):
        """The drawing cropped to its ink and fitted into a tile with one pixel of margin."""
        import resvg_py  # here: only who draws the sheets needs it

        raw = found.read_bytes() if isinstance(found, Path) else bytes(resvg_py.svg_to_bytes(svg_string=self.svg(found)))
        picture = Image.open(io.BytesIO(raw)).convert("RGBA").convert("RGBa")  # premultiplied: clean edges
        box = picture.getchannel("a").point(lambda a: 255 if a > 24 else 0).getbbox()
        picture = picture.crop(box)
        scale = (TILE - 2) / max(picture.size)
        size = tuple(max(1, round(s * scale)) for s in picture.size)
        picture = picture.resize(size, Image.Resampling.LANCZOS)
        tile = Image.new("RGBa", (TILE, TILE))
        tile.paste(picture, ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
        return tile.convert("RGBA")


def keywords(entry: dict) -> list[str]:
    """The emojibase tags that say something about the thing drawn; one keyword may hold for many concepts."""
    return [t for t in entry.get("tags", []) if t in KEYWORDS][:3]


def describe(modules: Path) -> list[dict]:
    english = json.loads((modules / "emojibase-data/en/data.json").read_text("utf-8"))
    chinese = {e["hexcode"]: e["label"] for e in json.loads((modules / "emojibase-data/zh/data.json").read_text("utf-8"))}
    by_label = {squash(e["label"]): e for e in english}
    concepts = parse_concepts()
    for concept in concepts:
        entry = by_label[squash(concept["label"])]
        concept |= dict(hexcode=entry["hexcode"], zh=chinese[entry["hexcode"]], keywords=keywords(entry))
    return concepts


def draw_sheet(style: str, folder: Path, concepts: list[dict]) -> bytes:
    """One artist's sheet as lossless WebP; each concept that is drawn gets the style's name."""
    pack, rows = Pack(folder), -(-len(concepts) // COLUMNS)
    sheet, file = Image.new("RGBA", (TILE * COLUMNS, TILE * rows)), io.BytesIO()
    for i, concept in enumerate(concepts):
        found = pack.find(concept)
        if found is not None and (style, concept["name"]) not in MISMATCHED:
            sheet.paste(pack.tile(found), (i % COLUMNS * TILE, i // COLUMNS * TILE))
            concept["styles"].append(style)
    sheet.save(file, "WEBP", lossless=True, method=6, exact=True)
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="?", type=Path, help="node_modules with the packages")
    parser.add_argument("--packages", action="store_true", help="print the npm packages and versions, and stop")
    args = parser.parse_args()
    if args.packages:
        print(" ".join(f"{package}@{version}" for package, version, *_ in [*STYLES.values(), NAMES_PACKAGE]))
        return
    if args.modules is None or not args.modules.is_dir():
        parser.error("name the folder node_modules that holds the packages")
    concepts, styles, sheets = describe(args.modules), {}, {}
    for concept in concepts:
        concept["styles"] = []
    for style, (package, version, licence, by) in STYLES.items():
        folder = args.modules / package
        found_version = json.loads((folder / "package.json").read_text("utf-8"))["version"]
        if found_version != version:
            raise SystemExit(f"{package}: version {found_version} is installed, {version} is recorded; install that one")
        sheets[style] = draw_sheet(style, folder, concepts)
        styles[style] = dict(package=package, version=version, licence=licence, by=by,
                             sha256=hashlib.sha256(sheets[style]).hexdigest())
        drawn = sum(style in c["styles"] for c in concepts)
        print(f"{style:10s} {drawn:4d} of {len(concepts)} concepts  {len(sheets[style]) / 1e6:.2f} MB")
    for style, sheet in sheets.items():
        atomic_write(DATA / f"sprites.{style}.webp", sheet)
    facts = dict(tile=TILE, columns=COLUMNS, styles=styles, concepts=concepts)
    atomic_write(DATA / "sprites.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
