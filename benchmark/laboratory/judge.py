"""A laboratory's own images → which of them may be used, and why the others may not.

What the audit would refuse in a published set is decided here at once, since nobody has reviewed
the images before: broken files are left out, of copies one stays, images of one cell are one group.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from benchmark.audit.images import BLACK, Look, look_at
from benchmark.audit.near_duplicates import SIDE, near_duplicates
from benchmark.audit.pairs import EQUAL
from benchmark.config import Profile
from benchmark.data.cards import Card, card_of, domain_images, published_images
from benchmark.data.known_cases import join_groups
from benchmark.data.prepare import SMALLEST_SIDE

FINDINGS = ["path", "finding", "because"]


def look_at_own(files: list[Path], cache: Path) -> list[Look]:
    """As `look_at`, for images that belong together.

    An image too small to show a cell is faulty, and so is one of a 16-bit file whose values are so
    far below those of the others that it would be black beside them.
    """
    looks = look_at(files, cache)
    bits = bits_of_looks(looks)

    def judged(seen: Look) -> Look:
        if seen.fault is not None:
            return seen
        if min(seen.width, seen.height) < SMALLEST_SIDE:
            return replace(seen, fault=f"is smaller than {SMALLEST_SIDE} px")
        if seen.bits and seen.miniature.mean() < BLACK * 2 ** (bits - seen.bits):
            beside = f"its values have {seen.bits} bits, theirs {bits}"
            return replace(seen, fault=f"is black beside the others: {beside}")
        return seen

    return list(map(judged, looks))


def bits_of_looks(looks: list[Look]) -> int:
    """How many bits the values of a set's 16-bit files have: those of the highest; 0 for none."""
    return max((seen.bits for seen in looks if seen.fault is None), default=0)


def remark(seen: Look, bits: int) -> str:
    """What the owner of a sound image has to know of what was taken of it; "" for nothing.

    Args:
        bits: of the values of the set's 16-bit files.
    """
    depth = f"{bits}-bit values in a 16-bit file" if seen.bits and bits < 16 else ""
    return ", ".join(filter(None, (seen.note, depth)))


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
) -> tuple[pd.DataFrame, list[Path], int]:
    """A profile's images that lie in `datasets/raw/` (domain, path below it, class_name), their
    files, and how many do not."""
    tables = []
    for domain in profile.domains:
        card = card_of(cards, domain)
        table = domain_images(
            root / "datasets", card, domain, profile.label_space, profile.subset
        ).assign(domain=domain, folder=card.folder)
        table["path"] = table["folder"] + "/" + table["path"]
        tables.append(table[["domain", "path", "class_name"]])
    images = pd.concat(tables, ignore_index=True)
    files = [root / "datasets" / "raw" / path for path in images["path"]]
    here = [file.is_file() for file in files]
    at_hand = [file for file, there in zip(files, here, strict=True) if there]
    return images[here].reset_index(drop=True), at_hand, len(files) - len(at_hand)


def published_hashes(datasets: Path, cards: dict[str, Card]) -> dict[str, str]:
    """SHA-256 of every image that some manifest here lists → its path and set."""
    hashes = {}
    for card in cards.values():
        if (Path(datasets) / card.manifest).exists():
            table = published_images(datasets, card)
            found = zip(table["sha256"].str.lower(), table["path"], strict=True)
            hashes |= {sha256: f"{path} of {card.name}" for sha256, path in found if sha256}
    return hashes
