"""Which of a laboratory's own images may be used, why the others may not, and how to crop them.

What the audit would refuse in a published set is decided here at once, since nobody has reviewed
the images before: broken files are left out, of copies one stays, images of one cell are one group.
The crop decides more than any method does: a network that was trained on cells of one size is
nearly at chance on cells of half of it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmark.audit.audit import images_of
from benchmark.audit.images import BLACK, Look, look_at
from benchmark.audit.near_duplicates import SIDE, near_duplicates
from benchmark.audit.pairs import EQUAL
from benchmark.data.cards import AroundBox, Card, Crop, LabelSpaces
from benchmark.data.manifests import join_groups, published_images, read_manifest
from benchmark.data.prepare import SMALLEST_SIDE, decode_all
from benchmark.domains.facts import nucleus_diameters
from benchmark.errors import UserError
from benchmark.files import read_json
from benchmark.laboratory.labels import cell_types, read_images
from benchmark.settings import Profile

FINDINGS = ["path", "finding", "because"]
MEASURED_SIDE = 160
"""Pixels of the square in which nuclei are measured."""
MOST = 40
"""Images per class that are measured, and as many of each source."""
FEWEST = 3
"""Nuclei per class without which there is no comparison by it."""
ALIKE = 1.15
"""Sizes that differ by less than this factor are left as they are."""


class ReadableImages(NamedTuple):
    """A laboratory's labelled images that can be read.

    Attributes:
        table: path, label, cell_type, and group (the path itself where none is known); of a cell
            that was cut also the field, and its box.
        looks: of the same rows.
        types: label → cell type, of all labels.
        found: path, finding and reason of what was left out, and of what was converted.
        notes: what a user must know of how labels and groups were found.
        grouped: whether the laboratory tells of groups.
        bits: of the values of 16-bit files, 0 if there are none.
        folder: where the images lie.
        crop: side of the centred square that shows one cell, as a fraction, if that is known.
    """

    table: pd.DataFrame
    looks: list[Look]
    types: dict[str, str]
    found: pd.DataFrame
    notes: list[str]
    grouped: bool
    bits: int
    folder: Path
    crop: float | None


def read_own(
    folder: Path,
    labels: Path | None,
    spaces: LabelSpaces,
    cells: dict[str, str],
    cache: Path,
    scratch: Path | None = None,
) -> ReadableImages:
    """The labelled images of a folder that can be read, by its folders or a CSV, or the cells of
    its fields.

    Args:
        cells: the laboratory's label → cell type, where it cannot be told from the label.
        cache: folder of the miniatures.
        scratch: folder that cells of fields are cut into; None: fields are refused.

    Raises:
        UserError: what `read_images` refuses; labels whose cell type is unknown; no image that can
            be read.
    """
    images, left_out, notes, lie, crop = read_images(folder, labels, spaces, cells, scratch)
    types = cell_types(images["label"], spaces, cells, folder)
    looks, bits = look_at_own([lie / path for path in images["path"]], cache)
    seen = list(zip(images["path"], looks, strict=True))
    left_out += [(path, "left out", look.fault) for path, look in seen if look.fault is not None]
    taken = [(path, "converted", look.note) for path, look in seen if not look.fault and look.note]
    sound = [row for row, look in enumerate(looks) if look.fault is None]
    if not sound:
        path, _, why = left_out[-1]
        raise UserError(f"{folder}: no image can be used, the last {why}: {path}")
    grouped = "group" in images
    table = images.assign(
        cell_type=images["label"].map(types), group=images["group" if grouped else "path"]
    ).iloc[sound]
    found = pd.DataFrame(left_out + taken, columns=FINDINGS)
    looks = [looks[row] for row in sound]
    return ReadableImages(table, looks, types, found, notes, grouped, bits, lie, crop)


def look_at_own(files: list[Path], cache: Path) -> tuple[list[Look], int]:
    """As `look_at`, for images that belong together.

    An image too small to show a cell is faulty, and so is one of a 16-bit file whose values are so
    far below those of the others that it would be black beside them.

    Returns:
        Looks, the note of a sound one with all that its owner has to know of what was taken; and
        how many bits the values of the 16-bit files have, those of the highest; 0 for none.
    """
    looks = look_at(files, cache)
    highest = bits_of(looks)

    def judged(seen: Look) -> Look:
        if seen.fault is not None:
            return seen
        if min(seen.width, seen.height) < SMALLEST_SIDE:
            return replace(seen, fault=f"is smaller than {SMALLEST_SIDE} px")
        if seen.bits and seen.miniature.mean() < BLACK * 2 ** (highest - seen.bits):
            beside = f"its values have {seen.bits} bits, theirs {highest}"
            return replace(seen, fault=f"is black beside the others: {beside}")
        return seen

    looks = list(map(judged, looks))
    bits = bits_of(looks)
    depth = f"{bits}-bit values in a 16-bit file" if bits < 16 else ""
    return [
        replace(seen, note=", ".join(filter(None, (seen.note, depth)))) if seen.bits else seen
        for seen in looks
    ], bits


def bits_of(looks: list[Look]) -> int:
    """Bits of the highest value of the 16-bit files among sound images; 0 for none."""
    return max((seen.bits for seen in looks if seen.fault is None), default=0)


def judge(
    images: pd.DataFrame,
    looks: list[Look],
    others: pd.DataFrame,
    other_looks: list[Look],
    published: dict[str, str],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Which images are used, in which group.

    Args:
        images: path, cell_type, class_name and group, of images without fault.
        looks: of the same rows.
        others: domain, path and class_name of images of other sets.
        other_looks: of the same rows.
        published: SHA-256 of every image of the other sets → its name, at hand or not.

    Returns:
        `images` with `excluded` (a reason, or "") and with the groups of one cell joined; and what
        was found: path, finding, because.
    """
    images = images.reset_index(drop=True)
    names, types = images["path"], images["cell_type"]
    sha256 = pd.Series([seen.sha256 for seen in looks])
    excluded = {
        row: f"the same file as {published[digest]}"
        for row, digest in sha256.items()
        if digest in published
    }
    for rows in sha256.drop(index=list(excluded)).groupby(sha256).groups.values():
        conflict = types[rows].nunique() > 1
        for row in rows if conflict else rows[1:]:
            other = rows[1] if row == rows[0] else rows[0]
            label = types[other] if conflict else ""
            excluded[row] = f"the same file as {named(names[other], label)}"
    used = [row for row in images.index if row not in excluded]
    seen = [*other_looks, *(looks[row] for row in used)]
    since, pairs, doubts = len(others), [], []
    miniatures = np.array([s.miniature for s in seen], np.uint8).reshape(-1, SIDE, SIDE)
    for pair in near_duplicates(miniatures, since).itertuples():
        row = used[pair.second - since]
        if pair.first < since:
            other = others.iloc[pair.first]
            reason = f"the same cell as {other['path']} of {other['domain']}"
            if pair.similarity >= EQUAL:
                excluded[row] = reason
            else:
                # Two laboratories rarely have one cell: likeness alone is no ground to drop it.
                alike = (
                    f"looks like {reason} ({other['class_name']}), similarity {pair.similarity:.2f}"
                )
                doubts.append((names[row], "to be looked at", alike))
            continue
        other = used[pair.first - since]
        pairs.append((names[other], names[row]))
        if types[row] == types[other]:
            continue
        for one, two in ((row, other), (other, row)):
            reason = f"the same cell as {named(names[two], types[two])}"
            if pair.similarity >= EQUAL:
                excluded[one] = reason
            else:
                doubts.append((names[one], "label to be checked", "looks like " + reason))
    groups = join_groups(dict(zip(names, images["group"], strict=True)), pairs)
    judged = images.assign(
        excluded=[excluded.get(row, "") for row in images.index], group=names.map(groups)
    )
    found = [(names[row], "not used", reason) for row, reason in excluded.items()]
    found += [
        (two, "in one group", f"the same cell as {one}")
        for one, two in pairs
        if not {one, two} & {path for path, *_ in found}
    ]
    return judged, pd.DataFrame([*found, *doubts], columns=FINDINGS).sort_values(FINDINGS)


def named(path: str, cell_type: str) -> str:
    """A path with its label, where the label matters."""
    return f"{path}, labelled {cell_type}" if cell_type else path


def images_at_hand(
    root: Path, profile: Profile, cards: dict[str, Card]
) -> tuple[pd.DataFrame, int]:
    """A profile's images that lie in `datasets/raw/` (domain, file, path below it, class_name), and
    how many do not."""
    images = images_of(root, profile, cards)
    images = images[images["domain"].isin(profile.domains)]  # those of a class
    raw = root / "datasets" / "raw"
    images = images.assign(path=[file.relative_to(raw).as_posix() for file in images["file"]])
    here = images["file"].map(Path.is_file).astype(bool)
    return images[here].reset_index(drop=True), int((~here).sum())


def published_hashes(
    datasets: Path, cards: dict[str, Card], domains: Collection[str] | None = None
) -> dict[str, str]:
    """SHA-256 of every image that some manifest here lists → its path and set; or of the used
    images of some domains → path and domain."""
    hashes = {}
    for card in cards.values():
        if not (Path(datasets) / card.manifest).exists():
            continue
        if domains is None:
            tables = {card.name: published_images(datasets, card)}
        else:
            named = [domain for domain in card.domains if domain in domains]
            tables = {name: read_manifest(datasets, card, "all", name) for name in named}
        for name, table in tables.items():
            found = zip(table["sha256"].str.lower(), table["path"], strict=True)
            hashes |= {sha256: f"{path} of {name}" for sha256, path in found if sha256}
    return hashes


def nuclei(folder: Path, images: pd.DataFrame, crop: Crop, name: str) -> dict[str, float]:
    """Median nucleus diameter per class, as a fraction of the crop's side.

    Args:
        images: path (below `folder`) and class_name; square too, for a crop around boxes.
        crop: as on a card.
        name: of the domain, for the progress.
    """
    found = {}
    for class_name, rows in images.groupby("class_name"):
        chosen = rows.iloc[np.linspace(0, len(rows) - 1, min(MOST, len(rows))).astype(int)]
        files = [folder / path for path in chosen["path"]]
        around = isinstance(crop, AroundBox)
        pixels = decode_all(
            files, chosen["square"].to_list() if around else crop, MEASURED_SIDE, name
        )
        diameters = nucleus_diameters(pixels)
        diameters = diameters[np.isfinite(diameters)]
        if len(diameters) >= FEWEST:
            found[class_name] = float(np.median(diameters))
    return found


def published_nuclei(path: Path, sources: list[str]) -> dict[str, dict[str, float]]:
    """The same of the sources, as `domain cards` wrote them down; none where it has not run."""
    try:
        domains = read_json(path)["domains"]
        return {
            source: {
                class_name: facts["of the crop's side"][1]
                for class_name, facts in domains[source]["nucleus diameter, quartiles"].items()
                if facts["images"] >= FEWEST
            }
            for source in sources
            if source in domains
        }
    except (UserError, KeyError, TypeError, IndexError):
        return {}


def alike(factor: float) -> bool:
    """Whether nuclei that stand so many times as large as a source's are much the same size."""
    return 1 / ALIKE <= factor <= ALIKE


def crop_wanted(crop: float, factor: float) -> float | None:
    """The crop in which nuclei stand nearest to a source's size, where in `crop` they are `factor`
    times as large; None where that is `crop` itself."""
    wanted = float(min(max(crop * factor, 0.05), 1.0))
    return wanted if abs(wanted - crop) >= 0.02 else None


def ratio(own: dict[str, float], source: dict[str, float]) -> float | None:
    """How much smaller or larger nuclei stand than those of a source, the median over classes."""
    both = [own[name] / source[name] for name in own if name in source]
    return float(np.median(both)) if both else None


def crop_advice(
    folder: Path,
    images: pd.DataFrame,
    crop: float,
    name: str,
    sources: dict[str, dict[str, float]],
) -> list[str]:
    """Lines that compare the size of nuclei with that of each source, and propose a crop.

    Args:
        images: path and class_name.
        sources: domain → class → median nucleus diameter, as a fraction of the crop's side.
    """
    own = nuclei(folder, images, crop, name)
    if not own:
        return []
    share = 100 * np.median([*own.values()])
    stated = f"nuclei of {name} take {share:.0f} % of the square's side (--crop {crop:g})"
    ratios = {source: ratio(own, theirs) for source, theirs in sources.items()}
    ratios = {source: first for source, first in ratios.items() if first is not None}
    if not ratios:
        return [f"{stated}; no images of a source are here to compare them with"]
    lines = []
    for source, first in ratios.items():
        theirs = sources[source]
        text = f"{stated}, those of the same classes in {source} {1 / first:.2f} times that"
        if alike(first):
            lines.append(f"{text}: much the same")
            continue
        if (wanted := crop_wanted(crop, first)) is not None:
            # Measured again there, for what lies around a cell is told from it more easily.
            again = ratio(nuclei(folder, images, wanted, name), theirs)
            wanted = crop_wanted(crop, wanted * (again or 1.0) / crop)
        if wanted is None:
            lines.append(f"{text}: no crop of these images shows them alike")
        else:
            lines.append(f"{text}: --crop {wanted:.2f} would show them alike; look at some images")
    return lines
