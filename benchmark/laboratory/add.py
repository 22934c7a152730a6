"""A laboratory's folder of labelled images → a domain of its own, a target in every scenario.

`wbc-shift domain add` copies the images below `datasets/raw/`, which git ignores, with their
manifest and what was found in them; writes the card `datasets/<name>.yaml`; and adds the domain to
a profile in `params.yaml`. All of it is done, or nothing: what is to be done is written down first
(`datasets/raw/.<name>.unfinished`), and if the process is killed, the next `domain` command does
the rest. One such command works at a time.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout
from ruamel.yaml import YAML

from benchmark import names
from benchmark.audit.images import look_at
from benchmark.config import PARAMS, Params, load_params
from benchmark.data.cards import Card, card_of, load_cards
from benchmark.data.label_spaces import OPEN_SET, labels_of_cells, read_label_spaces
from benchmark.data.manifest import write_manifest
from benchmark.data.prepare import UnusableImage
from benchmark.data.split import split_path
from benchmark.errors import UserError, suggest
from benchmark.files import atomic, cannot_write, read_json, read_yaml, write_json, write_text
from benchmark.laboratory.judge import (
    FINDINGS,
    bits_of_looks,
    images_at_hand,
    judge,
    look_at_own,
    published_hashes,
    remark,
)
from benchmark.laboratory.labels import cell_types, read_images
from benchmark.laboratory.own_crop import crop_advice, nuclei, published_nuclei
from benchmark.laboratory.settings_text import with_domain, without_domain
from benchmark.pipeline import write_pipelines
from benchmark.progress import say, track
from benchmark.schema import parse
from benchmark.texts import csv_cell, csv_path, file_name

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
        outside: images used of cells that are near or far, in no class of the space.
        found: path, finding and reason of every image that is not simply used.
        unseen: images of the profile's other domains that were not here to be compared.
        notes: what else a user must know.
    """

    classes: dict[str, int]
    outside: int
    found: pd.DataFrame
    unseen: int
    notes: list[str]

    def lines(self, name: str, profile: str) -> list[str]:
        """What a user must know of it."""
        classes = ", ".join(f"{number} {c}" for c, number in self.classes.items())
        kinds = [
            f"{number} {kind}" for kind, number in self.found["finding"].value_counts().items()
        ]
        lines = [f"{name}: {sum(self.classes.values())} images used ({classes})"]
        if self.outside:
            lines.append(f"{self.outside} images of other cells test what should be rejected")
        if kinds:
            path, finding, because = self.found.iloc[0]
            lines.append(
                f"note: {'; '.join(kinds)}: see datasets/raw/{name}/{FOUND}; the first: "
                f"{path or 'a row'} {finding}: {because}"
            )
        lines += [f"note: {note}" for note in self.notes]
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
            f"wbc-shift plan -p {profile}, which says how many runs are predicted from a "
            "checkpoint that is here and how many have none and would be trained here, then "
            f"wbc-shift train -p {profile}, or dvc repro with the dvc.yaml of that profile",
        ]


@contextmanager
def alone(root: Path) -> Iterator[list[str]]:
    """Let one `domain` command work at a time, after what a killed one left undone is done.

    Yields:
        the domains that were finished so.
    """
    raw = Path(root) / "datasets" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    lock = FileLock(raw / ".domains.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("waiting for another `wbc-shift domain` command to end")
        lock.acquire()
    try:
        finished = []
        for path in sorted(raw.glob(".*.unfinished")):
            task = read_json(path)
            carry_out(Path(root), **task)
            say(f"note: finished what was interrupted: domain {task['name']}")
            finished.append(task["name"])
        for left in (*raw.glob(".*.adding"), *raw.glob(".*.replaced")):
            shutil.rmtree(left, ignore_errors=True)
        yield finished
    finally:
        lock.release()


def add_domain(
    root: Path,
    profile_name: str,
    folder: Path,
    name: str,
    labels: Path | None = None,
    crop: float | None = None,
    cells: dict[str, str] | None = None,
    update: bool = False,
) -> Added:
    """Make the images of a folder a domain of a profile, or those of one that is there.

    Args:
        folder: holds a folder per class, or the images that `labels` names; only read.
        labels: a CSV of the columns path (below `folder`) and label, and perhaps group.
        crop: side of the centred square that shows one cell, as a fraction of the shorter side; by
            default the whole, or what the domain has.
        cells: the laboratory's label → cell type, where it cannot be told from the label.
        update: take the place of the images of the domain of this name.

    Raises:
        UserError: a name that is taken, or to be updated and not there; labels whose cell type is
            unknown; what `read_images` refuses; no image that can be used. Nothing was written
            then.
    """
    root = Path(root)
    with alone(root) as finished:
        params, cards = load_params(root / PARAMS), load_cards(root / "datasets")
        params.profile(profile_name)
        if update or name in finished:
            own_card_of(root, cards, name)
            crop = cards[name].domains[name].crop if crop is None else crop
            cards = {key: card for key, card in cards.items() if key != name}
        else:
            check_name(root / "datasets", cards, name)
        images, found, card, added = examine(
            root, params, cards, profile_name, Path(folder), name, labels, crop or 1.0, cells or {}
        )
        listed = name in params.profile(profile_name).domains
        if not listed and not update:
            with_domain(root / PARAMS, profile_name, name)
        place(root, Path(folder), images, found, card, None if update else profile_name)
    return added


def examine(
    root: Path,
    params: Params,
    cards: dict[str, Card],
    profile_name: str,
    folder: Path,
    name: str,
    labels: Path | None,
    crop: float,
    cells: dict[str, str],
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any], Added]:
    """Look at the images of a folder: those to be copied, what was found in them, their card, and
    what is to be told.

    Args:
        cards: those of other sets.
    """
    datasets, profile = root / "datasets", params.profile(profile_name)
    profile = profile.model_copy(update={"domains": [d for d in profile.domains if d != name]})
    spaces = read_label_spaces(datasets)
    images, left_out, notes = read_images(folder, labels, spaces, cells)
    types = cell_types(images["label"], spaces, cells, folder)
    cache = datasets / "cache" / "audit"
    looks = look_at_own([folder / path for path in images["path"]], cache)
    sound = [row for row, seen in enumerate(looks) if seen.fault is None]
    left_out += [
        (path, "left out", seen.fault)
        for path, seen in zip(images["path"], looks, strict=True)
        if seen.fault is not None
    ]
    bits = bits_of_looks(looks)
    remarks = [remark(seen, bits) if seen.fault is None else "" for seen in looks]
    taken = [
        (path, "converted", said)
        for path, said in zip(images["path"], remarks, strict=True)
        if said
    ]
    if not sound:
        path, _, why = left_out[-1]
        raise UserError(f"{folder}: no image can be used, the last {why}: {path}")
    grouped = "group" in images
    group = images["group"] if grouped else images["path"]
    targets = labels_of_cells(spaces, types)
    in_space = images["label"].map(targets[profile.label_space])
    images = images.assign(
        cell_type=images["label"].map(types), group=group, class_name=in_space.fillna("")
    )
    others, files, unseen = images_at_hand(root, profile, cards)
    judged, found = judge(
        images.iloc[sound],
        [looks[row] for row in sound],
        others,
        look_at(files, cache),
        published_hashes(datasets, cards),
    )
    found = pd.concat([pd.DataFrame(left_out + taken, columns=FINDINGS), found], ignore_index=True)
    used = judged[judged["excluded"] == ""]
    classes = {c: int((used["class_name"] == c).sum()) for c in spaces.spaces[profile.label_space]}
    if not any(classes.values()):
        why = f"; {found['path'].iloc[-1]}: {found['because'].iloc[-1]}" if len(found) else ""
        raise UserError(f"{folder}: no usable image has a class of {profile.label_space}{why}")
    sources = [domain for domain in profile.sources() if domain in profile.domains]
    theirs = published_nuclei(root / "results" / profile_name / "domains" / "domains.json", sources)
    for source in sources:
        here = others[others["domain"] == source]
        if source not in theirs and len(here):
            source_crop = card_of(cards, source).domains[source].crop_for(profile.label_space)
            # A broken image of theirs is for `prepare` to tell.
            with suppress(UnusableImage):
                theirs[source] = nuclei(datasets / "raw", here, source_crop, source)
    of_class = used[used["class_name"].isin(list(classes))]
    notes += crop_advice(folder, of_class, crop, name, theirs)
    card = own_card(name, judged["label"], targets, crop, grouped)
    outside = int(used["class_name"].isin(OPEN_SET).sum())
    return judged, found, card, Added(classes, outside, found, unseen, notes)


def check_name(datasets: Path, cards: dict[str, Card], name: str) -> None:
    """Refuse a name that is taken or cannot be a file's, and a project in which git would see
    the images."""
    if not NAME.fullmatch(name):
        raise UserError(f"--name {name}: use small letters, digits and hyphens")
    try:
        names.check_name(name, "domain")
    except ValueError as error:
        raise UserError(f"--name: {error}") from None
    if name in cards or any(name in card.domains for card in cards.values()):
        hint = f", or `wbc-shift domain update {name} DIR`" if is_own(cards.get(name)) else ""
        raise UserError(
            f"--name {name}: a set or domain has that name already: choose another{hint}"
        )
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


def is_own(card: Card | None) -> bool:
    """Whether a card is one of a laboratory's own images, as made here."""
    return card is not None and card.own and card.name in card.domains


def own_card_of(root: Path, cards: dict[str, Card], name: str) -> Card:
    """The card of a laboratory's own domain.

    Raises:
        UserError: there is none of that name, or it is that of a published set.
    """
    if not is_own(cards.get(name)):
        own = [key for key, card in cards.items() if is_own(card)]
        raise UserError(
            f"{name} is no domain that `wbc-shift domain add` made here"
            f"{suggest(name, own) or ': there is none'}"
        )
    return cards[name]


def place(
    root: Path,
    folder: Path,
    images: pd.DataFrame,
    found: pd.DataFrame,
    card: dict[str, Any],
    profile: str | None,
) -> None:
    """Copy the images, and write labels, findings, manifest, card and settings: all or nothing.

    Args:
        profile: gets the domain, unless it has it; none does if it is None.
    """
    raw, name = root / "datasets" / "raw", card["name"]
    parse(Card, card, f"datasets/{name}.yaml")
    buffer = StringIO(COMMENT.format(name=name))
    buffer.seek(0, os.SEEK_END)
    writer = YAML()
    writer.width = 100
    writer.dump(card, buffer)
    work = raw / f".{name}.adding"
    try:
        for path in track(images["path"], f"copying images of {name}"):
            with atomic(work / file_name(path)) as temporary:
                shutil.copyfile(folder / path, temporary)
        columns = ["path", "label", "group", "excluded"]
        # Read again by the harness, so nothing is added to a cell; names are as copied.
        labels = images[columns].map(file_name)
        write_text(work / LABELS, labels.to_csv(index=False, lineterminator="\n"))
        found = found.map(csv_cell).assign(path=found["path"].map(csv_path))
        write_text(work / FOUND, found.to_csv(index=False, lineterminator="\n"))
        task = {"name": name, "card": buffer.getvalue(), "profile": profile}
        write_json(raw / f".{name}.unfinished", task)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    carry_out(root, **task)


def carry_out(root: Path, name: str, card: str, profile: str | None) -> None:
    """Put copied images in their place, with manifest, card, settings and pipelines.

    Every step may have been taken already: what a killed process began is finished by another.
    An error takes all steps back.

    Args:
        card: the text of the card.
        profile: as in `place`.
    """
    datasets = root / "datasets"
    raw, target = datasets / "raw", datasets / "raw" / name
    work, replaced = raw / f".{name}.adding", raw / f".{name}.replaced"
    task, card_path = raw / f".{name}.unfinished", datasets / f"{name}.yaml"
    with ExitStack() as undo:
        undo.callback(task.unlink, missing_ok=True)
        undo.callback(shutil.rmtree, work, ignore_errors=True)
        undo.callback(put_back, replaced, target, work.exists() and target.exists())
        try:
            if work.exists():
                if target.exists():
                    target.rename(replaced)
                work.rename(target)
        except OSError as error:
            raise cannot_write(target, error) from error
        undo.callback(restore, card_path, content_of(card_path))
        write_text(card_path, card)
        found = parse(Card, read_yaml(card_path), str(card_path))
        manifest = datasets / found.manifest
        undo.callback(restore, manifest, content_of(manifest))
        write_manifest(datasets, found)
        cards, params = load_cards(datasets), load_params(root / PARAMS)
        if profile is not None and name not in params.profile(profile).domains:
            undo.callback(restore, root / PARAMS, content_of(root / PARAMS))
            write_text(root / PARAMS, with_domain(root / PARAMS, profile, name))
            params = load_params(root / PARAMS)
        write_pipelines(root, params, cards, check=False)
        task.unlink()
        undo.pop_all()
    shutil.rmtree(replaced, ignore_errors=True)


def content_of(path: Path) -> bytes | None:
    """What a file holds; None if there is none."""
    return path.read_bytes() if path.exists() else None


def restore(path: Path, content: bytes | None) -> None:
    """Give a file the content it had."""
    if content is None:
        path.unlink(missing_ok=True)
    else:
        with atomic(path) as temporary:
            temporary.write_bytes(content)


def put_back(replaced: Path, target: Path, before: bool) -> None:
    """Put the folder that was replaced in its place again; if there was none, leave none.

    Args:
        before: there was one, and it may not have been moved yet.
    """
    if replaced.exists():
        shutil.rmtree(target, ignore_errors=True)
        replaced.rename(target)
    elif not before:
        shutil.rmtree(target, ignore_errors=True)


def remove_domain(root: Path, name: str) -> list[str]:
    """Remove a laboratory's own domain: images, labels, manifest, card, and its place in profiles.

    Killed halfway, it can be repeated: the card, by which the domain is known, goes last.

    Returns:
        Lines that say what was removed and what stays.

    Raises:
        UserError: no such domain; a scenario names it; a profile shares its list of domains.
    """
    root = Path(root)
    with alone(root):
        datasets = root / "datasets"
        cards = load_cards(datasets)
        card = own_card_of(root, cards, name)
        params = load_params(root / PARAMS)
        listed = [key for key, profile in params.profiles.items() if name in profile.domains]
        for profile in listed:
            write_text(root / PARAMS, without_domain(root / PARAMS, profile, name))
        split = split_path(datasets, name)
        split.unlink(missing_ok=True)
        shutil.rmtree(datasets / "raw" / card.folder, ignore_errors=True)
        (datasets / card.manifest).unlink(missing_ok=True)
        del cards[name]
        write_pipelines(root, load_params(root / PARAMS), cards, check=False)
        (datasets / f"{name}.yaml").unlink()
    profiles = f" of {' and '.join(listed)}" if listed else ""
    return [
        f"{name} is no domain{profiles} any more; its images below datasets/raw were removed",
        "results/ keeps what was predicted on it, file names included; the next `wbc-shift plan` "
        "no longer asks for it",
    ]
