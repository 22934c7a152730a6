"""Facts: what a results folder says about data, audit, machines, runs and their trainings.

Runs that differ in readout, inference or ensemble membership alone share one training.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmark.data.arrays import read_prepared
from benchmark.data.cards import Card, load_cards, names_of_images
from benchmark.data.manifests import join_groups
from benchmark.evaluation.experiments import Experiment
from benchmark.files import digest
from benchmark.report.results import Records
from benchmark.schema import Record, read_record

SAME_CELL = "same cell"
"""What the audit calls a pair of pictures of one cell."""
OUTCOMES = ("done", "skipped", "nan", "oom", "error", "missing")


@dataclass(frozen=True)
class DataCard:
    """A card that the results used, and the domains taken from it."""

    card: Card
    domains: tuple[str, ...]


class Find(Record):
    """A find of the audit."""

    check: str
    text: str
    images: tuple[tuple[str, str], ...] = ()
    """(dataset, path) of the images that it is about"""


class AuditedDomain(Record):
    """A domain as the audit saw it."""

    images: int
    dataset: str = ""


class Audit(Record):
    """`audit.json`."""

    verdict: str
    domains: dict[str, AuditedDomain]
    failures: list[Find]
    warnings: list[Find]
    known: list[Find]
    unreviewed_in_one_group: tuple[Find, ...] = ()
    pairs_kept_together_by_their_group: int


@dataclass(frozen=True)
class AuditSummary:
    """How many finds of which kind, and the texts of those that are not known cases."""

    verdict: str
    images: int
    counts: tuple[tuple[str, int, int, int], ...]
    """(check, failures, warnings, known cases)"""
    kept_together: int
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Environment:
    facts: tuple[tuple[str, str], ...]
    """(what, its values with the number of runs where they differ)"""
    hours: float
    """training and prediction; a training that several runs share counts once"""
    trainings: int
    """how many the runs predict from"""
    computed: int
    """trainings among them whose time was not recorded, but follows from their recorded speed"""
    processors: int
    """kinds of processor and numbers of threads on which the networks were trained"""

    @property
    def note(self) -> str:
        """What runs of several machines mean for the variance of seeds; "" where one made all."""
        if self.processors < 2:
            return ""
        return (
            f"Runs were made on {self.processors} combinations of processor and number of threads. "
            "On another one the same seed gives another network, whose scores differ by as much as "
            "those of another seed: the variance between seeds includes that between processors, "
            "and two methods that share a seed across processors share only the order of images."
        )


def data_cards(results: Path) -> list[DataCard]:
    """The cards of the sets that `data.json` names; none where no `datasets/` lies beside."""
    data, datasets = Path(results) / "data.json", Path(results).parent.parent / "datasets"
    if not data.is_file() or not any(datasets.glob("*.yaml")):
        return []
    used: dict[str, list[str]] = {}
    for domain, facts in read_prepared(data)["domains"].items():
        used.setdefault(facts["dataset"], []).append(domain)
    cards = load_cards(datasets)
    return [DataCard(cards[name], tuple(d)) for name, d in used.items() if name in cards]


def image_names(results: Path) -> dict[str, set[str]]:
    """Domain → every name under which its images circulate: its set's, and others of its family."""
    used = [one.card for one in data_cards(results)]
    every = load_cards(Path(results).parent.parent / "datasets") if used else {}
    names = names_of_images(every)
    return {domain: names[domain] for card in used for domain in card.domains}


def cells_shown(results: Path) -> dict[str, tuple[int, int]]:
    """Domain → its images, and the cells that they show by the pairs that the audit found; without
    domains whose set others are made of too, since a pair does not say which it is in."""
    path = Path(results) / "audit.json"
    if not path.is_file():
        return {}
    audit = read_record(path, Audit, f"run `wbc-shift audit -p {path.parent.name}`")
    pairs: dict[str, list[tuple[str, str]]] = {}
    for find in [
        *audit["known"],
        *audit["warnings"],
        *audit.get("unreviewed_in_one_group", ()),
    ]:
        if find["check"] == SAME_CELL and len(find.get("images", ())) == 2:
            (dataset, one), (other, two) = find["images"]
            if dataset == other:
                pairs.setdefault(dataset, []).append((one, two))
    sets = Counter(facts.get("dataset") for facts in audit["domains"].values())
    found = {}
    for domain, facts in audit["domains"].items():
        own = pairs.get(facts.get("dataset"), [])
        if own and sets[facts["dataset"]] == 1:
            joined = join_groups({path: path for pair in own for path in pair}, own)
            again = len(joined) - len(set(joined.values()))
            found[domain] = facts["images"], facts["images"] - again
    return found


def audit_summary(results: Path) -> AuditSummary | None:
    """`audit.json` in numbers; None where the audit has not run."""
    path = Path(results) / "audit.json"
    if not path.is_file():
        return None
    audit = read_record(path, Audit, f"run `wbc-shift audit -p {path.parent.name}`")
    own = {used.card.name for used in data_cards(results) if used.card.own}

    def text(finding: dict[str, Any]) -> str:
        if own & {dataset for dataset, _ in finding.get("images", ())}:
            return f"{finding['check']}: own images, named in audit.json and not on a page"
        return finding["text"]

    kinds = [Counter(f["check"] for f in audit[k]) for k in ("failures", "warnings", "known")]
    return AuditSummary(
        audit["verdict"],
        sum(facts["images"] for facts in audit["domains"].values()),
        tuple((check, *(kind[check] for kind in kinds)) for check in sorted(set().union(*kinds))),
        audit["pairs_kept_together_by_their_group"],
        tuple(map(text, [*audit["failures"], *audit["warnings"]])),
    )


def environment(records: Records) -> Environment:
    places = [record.get("environment", {}) for record in records.values()]
    names = {
        "device": "Device",
        "threads": "Threads",
        "platform": "System",
        **{name: name for name in ("python", "torch", "timm", "numpy", "pandas", "pillow")},
        "git_commit": "Commit",
    }
    facts = []
    for key, title in names.items():
        counts = Counter(str(place[key]) for place in places if place.get(key) is not None)
        if key == "git_commit":
            counts = Counter({commit[:10]: n for commit, n in counts.items()})
        values = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        if values:
            facts.append((title, listed(values)))
    changed = sum(bool(place.get("git_dirty")) for place in places)
    if changed:
        facts.append(("Made with uncommitted changes", f"{changed} of {len(records)} runs"))
    computed = computed_seconds(records)
    seconds = sum(computed.values()) + sum(
        record.get("time", {}).get(part, 0)
        for record in records.values()
        for part in ("train_s", "load_s", "evaluate_s")
    )
    shared = len(recorded_seconds(records))
    made_on = {(place.get("device"), place.get("threads")) for place in places if place}
    return Environment(tuple(facts), seconds / 3600, shared, len(computed), len(made_on))


def listed(values: list[tuple[str, int]], most: int = 6) -> str:
    """One value alone, or several with how many runs each is of."""
    if len(values) == 1:
        return values[0][0]
    shown = ", ".join(
        f"{value} ({count} run{'s' if count > 1 else ''})" for value, count in values[:most]
    )
    return shown + (f" and {len(values) - most} more" if len(values) > most else "")


def outcomes(experiment: Experiment) -> dict[str, int]:
    """How many planned runs came to which end, in the order of `OUTCOMES`."""
    counts = Counter(run.outcome for run in experiment.runs)
    return {outcome: counts[outcome] for outcome in OUTCOMES}


def bibliography(texts: list[str]) -> str:
    """BibTeX entries, each key once; the first of a key stays, and what is no entry goes."""
    entries: dict[str, str] = {}
    for entry in (entry for text in texts for entry in re.split(r"\n(?=@)", text.strip())):
        if key := re.match(r"@\w+\{([^,]+),", entry):
            entries.setdefault(key[1], entry.strip())
    return "\n\n".join(entries.values())


def device_text(record: dict) -> str:
    """`CPU, Intel Xeon, 1 thread`."""
    place = record.get("environment", {})
    threads = place.get("threads", 1)
    return (
        f"{place.get('device_type', '?').upper()}, {place.get('device', '?')}, "
        f"{threads} thread{'s' if threads != 1 else ''}"
    )


def trainings(run_id: str, records: Records) -> list[str]:
    """The trainings that a run predicts from: one, its members', or none."""
    record = records.get(run_id, {})
    members = record.get("settings", {}).get("members", [])
    if members:
        return [one for member in members for one in trainings(member["run_id"], records)]
    return [training_of(record)] if record.get("history") else []


def training_of(record: dict[str, Any]) -> str:
    """Tells trainings apart: by settings, data and seed, and by the course that each took.

    The same settings trained on another processor are another training.
    """
    return digest([record["training_fingerprint"], record["history"]])


def trained_apart(records: Records) -> list[list[list[str]]]:
    """Methods that share a training by their settings, but were trained several times: by training.

    Each way of falling apart once, whatever the seed and scenario.
    """
    alike: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for record in records.values():
        if record.get("history"):
            same = alike[record["training_fingerprint"]]
            same[training_of(record)].append(record["method"]["name"])
    found = [sorted(sorted(own) for own in same.values()) for same in alike.values()]
    return [one for place, one in enumerate(found) if len(one) > 1 and one not in found[:place]]


def recorded_seconds(records: Records) -> dict[str, float]:
    """Seconds of each training: the longest in the records of the runs it serves.

    Only the run that trained has them; those that found its checkpoint say 0.
    """
    seconds: dict[str, float] = {}
    for run_id, record in records.items():
        for training in trainings(run_id, records):
            spent = record.get("time", {}).get("train_s") or 0.0
            seconds[training] = max(spent, seconds.get(training, 0.0))
    return seconds


def computed_seconds(records: Records) -> dict[str, float]:
    """Seconds of each training that no record times, from its epochs and its recorded speed.

    Images an epoch are those of the timed trainings on the same source (median); without one the
    training is left out.
    """
    images: dict[str, list[float]] = defaultdict(list)
    paces: dict[str, tuple[str, float]] = {}
    seconds = recorded_seconds(records)
    for record in records.values():
        epochs, speed = len(record.get("history") or []), record.get("train_images_per_s")
        if not (epochs and speed):
            continue
        source = record["scenario"]["source"]
        if spent := record.get("time", {}).get("train_s"):
            images[source].append(spent * speed / epochs)
        elif not seconds[training_of(record)]:
            paces[training_of(record)] = source, epochs / speed
    return {
        training: pace * median(images[source])
        for training, (source, pace) in paces.items()
        if images[source]
    }
