"""A laboratory's folder of labelled images → a domain of its own, a target in every scenario.

`wbc-shift domain add` copies the images below `datasets/raw/`, which git ignores, with their
manifest and what was found in them; writes the card `datasets/<name>.yaml`; and adds the domain to
a profile in `params.yaml`. All of it is done, or nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
from ruamel.yaml import YAML

from benchmark.audit.images import look_at
from benchmark.audit.own_images import (
    FINDINGS,
    bits_of_looks,
    images_at_hand,
    judge,
    look_at_own,
    published_hashes,
    remark,
)
from benchmark.config import PARAMS, Params
from benchmark.data.cards import Card, load_cards
from benchmark.data.image_files import find_images
from benchmark.data.label_spaces import labels_of_cells, read_label_spaces
from benchmark.data.manifest import write_manifest
from benchmark.data.own_labels import cell_types, read_images
from benchmark.errors import UserError
from benchmark.files import atomic, cannot_write, temporary_beside, write_text
from benchmark.progress import track
from benchmark.schema import parse

NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
LABELS, FOUND = "labels.csv", "audit.csv"
"""What lies beside the copied images: their labels, and what was found in them."""
COMMENT = """\
# Own images, added by `wbc-shift domain add`. They lie in datasets/raw/{name} of the machine that
# made this card, with labels.csv and audit.csv; git ignores them.
"""


@dataclass(frozen=True)
class Added:
    """What became of a folder.

    Attributes:
        classes: images used per class of the profile's label space.
        found: path, finding and reason of every image that is not simply used.
        unseen: images of the profile's other domains that were not here to be compared.
    """

    classes: dict[str, int]
    found: pd.DataFrame
    unseen: int

    def lines(self, name: str, profile: str) -> list[str]:
        """What a user must know of it."""
        classes = ", ".join(f"{number} {c}" for c, number in self.classes.items())
        kinds = [
            f"{number} {kind}" for kind, number in self.found["finding"].value_counts().items()
        ]
        lines = [f"{name}: {sum(self.classes.values())} images used ({classes})"]
        if kinds:
            lines.append(f"note: {'; '.join(kinds)}: see datasets/raw/{name}/{FOUND}")
        if self.unseen:
            lines.append(
                f"note: {self.unseen} images of other domains are not here and were not compared: "
                f"after `wbc-shift fetch -p {profile}`, `wbc-shift audit -p {profile}` does it"
            )
        return [
            *lines,
            f"the images lie in datasets/raw/{name}, which git ignores; datasets/{name}.yaml, "
            f"{PARAMS}, pipelines and the predictions to come (they name images) are not ignored",
            f"next: wbc-shift fetch -p {profile} && wbc-shift prepare -p {profile} && "
            f"wbc-shift plan -p {profile} && wbc-shift train -p {profile}, or dvc repro with the "
            "dvc.yaml of that profile",
        ]


def add_domain(
    root: Path,
    params: Params,
    cards: dict[str, Card],
    profile_name: str,
    folder: Path,
    name: str,
    labels: Path | None = None,
    crop: float = 1.0,
    cells: dict[str, str] | None = None,
) -> Added:
    """Make the images of a folder a domain of a profile.

    Args:
        folder: holds a folder per class, or the images that `labels` names; only read.
        labels: a CSV of the columns path (below `folder`) and label, and perhaps group.
        crop: side of the centred square that shows one cell, as a fraction of the shorter side.
        cells: the laboratory's label → cell type, where it cannot be told from the label.

    Raises:
        UserError: a name that is taken; labels whose cell type is unknown; what `read_layout`
            refuses; no image that can be used. Nothing was written then.
    """
    root, folder = Path(root), Path(folder)
    datasets, profile = root / "datasets", params.profile(profile_name)
    target = datasets / "raw" / name
    check_name(datasets, cards, name)
    images = read_images(folder, labels)
    found_spaces = read_label_spaces(datasets)
    types = cell_types(images["label"], found_spaces, cells or {}, folder)
    cache = datasets / "cache" / "audit"
    looks = look_at_own([folder / path for path in images["path"]], cache)
    sound = [row for row, seen in enumerate(looks) if seen.fault is None]
    broken = [
        (path, "left out", seen.fault)
        for path, seen in zip(images["path"], looks, strict=True)
        if seen.fault is not None
    ]
    there = find_images(folder)
    broken += [(path, "left out", why) for path, why in there.passed_over.items()]
    labelled = set(map(os.path.normpath, images["path"]))
    broken += [(path, "left out", "has no label") for path in there.images if path not in labelled]
    bits = bits_of_looks(looks)
    remarks = [remark(seen, bits) if seen.fault is None else "" for seen in looks]
    taken = [
        (path, "converted", said)
        for path, said in zip(images["path"], remarks, strict=True)
        if said
    ]
    if not sound:
        raise UserError(f"{folder}: no image can be used, the first {broken[0][2]}: {broken[0][0]}")
    grouped = "group" in images
    group = images["group"] if grouped else images["path"]
    images = images.assign(cell_type=images["label"].map(types), group=group)
    others, files, unseen = images_at_hand(root, profile, cards)
    judged, found = judge(
        images.iloc[sound],
        [looks[row] for row in sound],
        others,
        look_at(files, cache),
        published_hashes(datasets, cards),
    )
    found = pd.concat([pd.DataFrame(broken + taken, columns=FINDINGS), found], ignore_index=True)
    targets = labels_of_cells(found_spaces, types)
    used = judged.loc[judged["excluded"] == "", "label"].map(targets[profile.label_space])
    classes = {c: int((used == c).sum()) for c in found_spaces.spaces[profile.label_space]}
    if not any(classes.values()):
        why = f"; {found['path'].iloc[-1]}: {found['because'].iloc[-1]}" if len(found) else ""
        raise UserError(f"{folder}: no usable image has a class of {profile.label_space}{why}")
    card = own_card(name, judged["label"], targets, crop, grouped)
    settings = with_domain(root / PARAMS, profile_name, name)
    place(root, folder, target, judged, found, card, settings)
    return Added(classes, found, unseen)


def check_name(datasets: Path, cards: dict[str, Card], name: str) -> None:
    """Refuse a name that is taken or cannot be a file's, and a project in which git would see
    the images."""
    if not NAME.fullmatch(name):
        raise UserError(f"--name {name}: use small letters, digits and hyphens")
    if name in cards or any(name in card.domains for card in cards.values()):
        raise UserError(f"--name {name}: a set or domain has that name already: choose another")
    for path in (datasets / f"{name}.yaml", datasets / "raw" / name):
        if path.exists():
            raise UserError(f"{path} is there already: choose another name, or remove it")
    asked = ["git", "-C", str(datasets), "check-ignore", "-q", f"raw/{name}/{LABELS}"]
    if shutil.which("git") and subprocess.run(asked, capture_output=True).returncode == 1:
        raise UserError(f"git does not ignore {datasets / 'raw'}: add /datasets/raw/ to .gitignore")


def own_card(
    name: str,
    labels: pd.Series,
    targets: dict[str, dict[str, str | None]],
    crop: float,
    grouped: bool,
) -> dict[str, Any]:
    """The card of a laboratory's images, ready for YAML."""
    columns = {"group": "group", "excluded": "excluded"}
    return {
        "name": name,
        "title": name,
        "homepage": "none",
        "citation": {"key": name, "bibtex": f"@misc{{{name}, note = {{own images}}}}"},
        "licence": {"name": "own images, not published", "redistribution": "forbidden"},
        "own": True,
        "folder": name,
        "by_hand": f"copy datasets/raw/{name} from the machine that made datasets/{name}.yaml",
        "manifest": f"raw/.manifests/{name}.csv",
        "layout": {
            "reader": "csv_labels",
            "tables": {LABELS: "{image}"},
            "image": "path",
            "label": "label",
            "columns": columns,
        },
        "counts": {label: int(n) for label, n in labels.value_counts().sort_index().items()},
        "counts_source": "counted",
        "groups": "group, as the laboratory names it" if grouped else None,
        "domains": {name: {"title": name, "crop": crop}},
        "labels": targets,
    }


def with_domain(path: Path, profile: str, name: str) -> str:
    """The text of `params.yaml` with one more domain in a profile; comments stay.

    Raises:
        UserError: more than this profile would change, since several share one list.
    """
    writer = YAML()
    writer.preserve_quotes = True
    writer.width = 4096
    writer.indent(mapping=2, sequence=4, offset=2)
    content = writer.load(path.read_text(encoding="utf-8"))
    content["profiles"][profile]["domains"].append(name)
    buffer = StringIO()
    writer.dump(content, buffer)
    before = parse(Params, YAML(typ="safe", pure=True).load(path.read_text("utf-8")), str(path))
    after = parse(Params, YAML(typ="safe", pure=True).load(buffer.getvalue()), str(path))
    changed = [p for p in before.profiles if before.profiles[p] != after.profiles[p]]
    if changed != [profile]:
        raise UserError(
            f"{path}: profiles {', '.join(changed)} share one list of domains: "
            f"give {profile} one of its own"
        )
    return buffer.getvalue()


def place(
    root: Path,
    folder: Path,
    target: Path,
    images: pd.DataFrame,
    found: pd.DataFrame,
    card: dict[str, Any],
    settings: str,
) -> None:
    """Copy the images, and write labels, findings, manifest, card and settings: all or nothing."""
    datasets, name = root / "datasets", card["name"]
    card_path, manifest = datasets / f"{name}.yaml", datasets / card["manifest"]
    buffer = StringIO(COMMENT.format(name=name))
    buffer.seek(0, os.SEEK_END)
    writer = YAML()
    writer.width = 100
    writer.dump(card, buffer)
    with temporary_beside(target, folder=True) as work, ExitStack() as undo:
        for path in track(images["path"], f"copying images of {name}"):
            with atomic(work / path) as temporary:
                shutil.copyfile(folder / path, temporary)
        columns = ["path", "label", "group", "excluded"]
        write_text(work / LABELS, images[columns].to_csv(index=False, lineterminator="\n"))
        write_text(work / FOUND, found.to_csv(index=False, lineterminator="\n"))
        try:
            work.chmod(0o755)
            work.rename(target)
        except OSError as error:
            raise cannot_write(target, error) from error
        undo.callback(shutil.rmtree, target, ignore_errors=True)
        undo.callback(manifest.unlink, missing_ok=True)
        write_manifest(datasets, parse(Card, card, str(card_path)))
        undo.callback(card_path.unlink, missing_ok=True)
        write_text(card_path, buffer.getvalue())
        load_cards(datasets)
        write_text(root / PARAMS, settings)
        undo.pop_all()
