"""Rebuild ``tin100``, the 100-class, 20-superclass, 32x32 subset of Tiny ImageNet, from a local copy of the archive.

    python studies/build_tin100.py ARCHIVE OUT [--resample bicubic] [--compare FOLDER]

ARCHIVE is the unpacked ``tiny-imagenet-200`` folder; a minute or two on one core. OUT then loads as ``parquet:OUT``
with 50,000 training and 5,000 test images. docs/tin100.md says what is known about the original and what is not.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from divfeat.data import ImageSet, load_source
from divfeat.errors import DataError, DivfeatError

# The tree: a line of three levels (3 / 8 / 20 names), then its five classes with their WordNet ids.
TABLE = """
animal vertebrate dog
    n02085620 Chihuahua
    n02094433 Yorkshire_terrier
    n02099601 golden_retriever
    n02099712 Labrador_retriever
    n02106662 German_shepherd
animal vertebrate feline
    n02123045 tabby
    n02123394 Persian_cat
    n02124075 Egyptian_cat
    n02125311 cougar
    n02129165 lion
animal vertebrate ungulate
    n02395406 hog
    n02403003 ox
    n02410509 bison
    n02415577 bighorn
    n02423022 gazelle
animal vertebrate forest_mammal
    n01882714 koala
    n02132136 brown_bear
    n02480495 orangutan
    n02481823 chimpanzee
    n02486410 baboon
animal vertebrate reptile_or_amphibian
    n01629819 European_fire_salamander
    n01641577 bullfrog
    n01644900 tailed_frog
    n01698640 American_alligator
    n01742172 boa_constrictor
animal invertebrate crawling_insect
    n02165456 ladybug
    n02226429 grasshopper
    n02231487 walking_stick
    n02233338 cockroach
    n02236044 mantis
animal invertebrate flying_insect
    n02190166 fly
    n02206856 bee
    n02268443 dragonfly
    n02279972 monarch
    n02281406 sulphur_butterfly
animal invertebrate arthropod
    n01768244 trilobite
    n01770393 scorpion
    n01774384 black_widow
    n01774750 tarantula
    n01784675 centipede
animal invertebrate marine_invertebrate
    n01910747 jellyfish
    n01917289 brain_coral
    n01944390 snail
    n01945685 slug
    n01950731 sea_slug
artifact clothing garment
    n02837789 bikini
    n02963159 cardigan
    n03617480 kimono
    n03770439 miniskirt
    n04371430 swimming_trunks
artifact clothing outerwear
    n02669723 academic_gown
    n03404251 fur_coat
    n03763968 military_uniform
    n03980874 poncho
    n04532106 vestment
artifact vehicle car
    n02814533 beach_wagon
    n03100240 convertible
    n03444034 go-kart
    n03670208 limousine
    n04285008 sports_car
artifact vehicle heavy_vehicle
    n03796401 moving_van
    n03977966 police_van
    n04146614 school_bus
    n04465501 tractor
    n04487081 trolleybus
artifact object bottle
    n02815834 beaker
    n02823428 beer_bottle
    n03937543 pill_bottle
    n03983396 pop_bottle
    n04560804 water_jug
artifact object sports_gear
    n02802426 basketball
    n03255030 dumbbell
    n04023962 punching_bag
    n04118538 rugby_ball
    n04540053 volleyball
artifact structure bridge_or_arch
    n03160309 dam
    n04311004 steel_arch_bridge
    n04366367 suspension_bridge
    n04486054 triumphal_arch
    n04532670 viaduct
artifact structure monument_or_tower
    n02814860 beacon
    n03355925 flagpole
    n03388043 fountain
    n03837869 obelisk
    n04562935 water_tower
nature food fruit
    n07720875 bell_pepper
    n07747607 orange
    n07749582 lemon
    n07753592 banana
    n07768694 pomegranate
nature food dish
    n07579787 plate
    n07583066 guacamole
    n07871810 meat_loaf
    n07873807 pizza
    n07875152 potpie
nature landscape geological_formation
    n09193705 alp
    n09246464 cliff
    n09256479 coral_reef
    n09332890 lakeside
    n09428293 seashore
"""

SIZE, QUALITY, ROW_GROUP = 32, 92, 2048
TRAIN_PER_CLASS, TEST_PER_CLASS = 500, 50
RESAMPLE = {name.lower(): Image.Resampling[name] for name in ("BOX", "BILINEAR", "BICUBIC", "LANCZOS")}


@dataclass(frozen=True)
class FineClass:
    """A class of the table: its WordNet id, its name, and the names of the three levels above it."""

    wnid: str
    name: str
    coarse: str
    middle: str
    top: str


def classes() -> tuple[FineClass, ...]:
    """The 100 classes in label order, which is that of their WordNet ids."""
    found: list[FineClass] = []
    above: list[str] = []
    for line in TABLE.strip().splitlines():
        if not line.startswith(" "):
            above = line.split()
        else:
            wnid, name = line.split()
            found.append(FineClass(wnid, name, above[2], above[1], above[0]))
    return tuple(sorted(found, key=lambda fine: fine.wnid))


def hierarchy() -> dict[str, dict[str, dict[str, list[str]]]]:
    """The tree as nested dicts; the leaves are fine names (match them by name)."""
    tree: dict[str, dict[str, dict[str, list[str]]]] = {}
    for fine in classes():
        tree.setdefault(fine.top, {}).setdefault(fine.middle, {}).setdefault(fine.coarse, []).append(fine.name)
    return tree


def build(
    archive: Path,
    out: Path,
    *,
    resample: str = "bicubic",
    train_per_class: int = TRAIN_PER_CLASS,
    test_per_class: int = TEST_PER_CLASS,
) -> None:
    """Write ``train`` and ``test`` shards and ``hierarchy.json`` to the folder ``out``.

    Args:
        archive: the unpacked archive: train/<wnid>/images, val/images, val/val_annotations.txt, words.txt.
        out: created if need be; existing shards are overwritten.
        resample: filter from 64 to 32 pixels, a key of :data:`RESAMPLE`.
        train_per_class: images that each class must have under train/; the real archive has 500.
        test_per_class: and under val/; the real archive has 50.

    Raises:
        DataError: a folder, file or class that is missing, a wrong image count, ids that mean something else, or an
            ``out`` that cannot be written.
    """
    fine = classes()
    check_names(archive)
    train: dict[str, tuple[Path, int]] = {}
    for label, entry in enumerate(fine):
        folder = archive / "train" / entry.wnid / "images"
        files = sorted(folder.glob("*.JPEG"))
        check_count(f"{folder} ({entry.name})", len(files), train_per_class)
        train |= {file.name: (file, label) for file in files}
    labels = {entry.wnid: label for label, entry in enumerate(fine)}
    annotations = archive / "val" / "val_annotations.txt"
    rows = [line.split("\t")[:2] for line in read_text(annotations).splitlines() if line.strip()]
    test = {name: (archive / "val" / "images" / name, labels[wnid]) for name, wnid in rows if wnid in labels}
    counts = np.bincount([label for _, label in test.values()], minlength=len(fine))
    for entry, count in zip(fine, counts, strict=True):
        check_count(f"{annotations}, class {entry.wnid} ({entry.name})", int(count), test_per_class)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for split, seed, images in (("train", 0, train), ("test", 1, test)):
            order = sorted(images)  # as text, then shuffled: this reproduces the original's row order exactly
            random.Random(seed).shuffle(order)
            write(out / f"{split}-00000-of-00001.parquet", order, images, RESAMPLE[resample])
        (out / "hierarchy.json").write_text(json.dumps(hierarchy(), indent=1) + "\n")
    except OSError as error:
        raise DataError(f"{out} cannot be written ({error}): give a folder you may write to") from error


def check_names(archive: Path) -> None:
    """Each id must mean in the archive's words.txt what the table says it means."""
    words = dict(line.split("\t", 1) for line in read_text(archive / "words.txt").splitlines() if "\t" in line)
    for entry in classes():
        meaning = words.get(entry.wnid, "")
        if plain(entry.name) not in {plain(word) for word in meaning.split(",")}:
            raise DataError(
                f"{archive / 'words.txt'} says that {entry.wnid} is {meaning!r}, not {entry.name!r}: give Tiny ImageNet"
            )


def plain(name: str) -> str:
    """A name without case, underscores, hyphens and blanks."""
    return re.sub(r"[\s_-]+", "", name).lower()


def read_text(path: Path) -> str:
    """The text of a file of the archive."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): give the unpacked tiny-imagenet-200 folder"
        ) from error


def check_count(what: str, found: int, wanted: int) -> None:
    """Refuse an incomplete archive."""
    if found != wanted:
        raise DataError(f"{what}: {found} images where {wanted} are due: unpack the archive again")


def write(path: Path, order: list[str], images: dict[str, tuple[Path, int]], resample: Image.Resampling) -> None:
    """One shard in the hub's layout: img {bytes, path}, fine_label, coarse_label, names in the metadata."""
    fine = classes()
    coarse_names = sorted({entry.coarse for entry in fine})
    labels = [images[name][1] for name in order]
    columns = {
        "img": pa.array(
            [{"bytes": encode(images[name][0], resample), "path": name} for name in order],
            pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        ),
        "fine_label": pa.array(labels, pa.int64()),
        "coarse_label": pa.array([coarse_names.index(fine[label].coarse) for label in labels], pa.int64()),
    }
    features: dict[str, Any] = {"img": {"_type": "Image"}}
    features["fine_label"] = {"names": [entry.name for entry in fine], "_type": "ClassLabel"}
    features["coarse_label"] = {"names": coarse_names, "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table(columns).replace_schema_metadata(metadata)
    pq.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP)


def encode(file: Path, resample: Image.Resampling) -> bytes:
    """A file of the archive as a 32x32 RGB JPEG with the original's quality, subsampling (none) and Huffman coding."""
    try:
        with Image.open(file) as image:
            small = image.convert("RGB").resize((SIZE, SIZE), resample)
    except OSError as error:
        raise DataError(f"{file} is not a readable image ({error}): unpack the archive again") from error
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
    return buffer.getvalue()


def compare(ours: ImageSet, other: ImageSet) -> str:
    """How close two builds are, in words: the filter that is right gives a difference of (almost) 0."""
    if ours.images.shape != other.images.shape:
        return f"shapes differ: {ours.images.shape} and {other.images.shape}"
    gap = np.array([np.abs(a.astype(np.int16) - b).mean() for a, b in zip(ours.images, other.images, strict=True)])
    checks: dict[str, Callable[[ImageSet], object]] = {
        "class names": lambda data: (data.fine_names, data.coarse_names),
        "labels in row order": lambda data: (data.fine.tobytes(), data.labels("coarse").tobytes()),
        "content hash": lambda data: data.content_hash,
    }
    words = [f"{name} {'equal' if get(ours) == get(other) else 'DIFFER'}" for name, get in checks.items()]
    return f"{', '.join(words)}, {np.mean(gap == 0):.1%} of images identical, mean |difference| {gap.mean():.3f} of 255"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="the unpacked tiny-imagenet-200 folder")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--resample", choices=RESAMPLE, default="bicubic", help="filter from 64 to 32 px (bicubic)")
    parser.add_argument("--compare", type=Path, help="another tin100 folder to compare the result with")
    options = parser.parse_args(arguments)
    try:
        build(options.archive, options.out, resample=options.resample)
        for split in ("train", "test"):
            ours = load_source(f"parquet:{options.out.absolute()}", split=split)
            print(f"{split}: {len(ours)} images, content hash {ours.content_hash}")
            if options.compare:
                other = load_source(f"parquet:{options.compare.absolute()}", split=split)
                print(f"{split} against {options.compare}: {compare(ours, other)}")
    except DivfeatError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
