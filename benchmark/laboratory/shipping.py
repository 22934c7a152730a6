"""Which networks are in the repository: put there, chosen by a rule, and checked.

The rule (`renew`): for each source the inductive method of one network with the highest mean of the
targets' macro-F1 over all its finished seeds, if its file fits, and of these seeds the one with the
highest score on id_val; and beside them one plain network, of the same backbone and initial
weights, for comparison. What is there stays unless the study finds a better one.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save

from benchmark import metrics
from benchmark.data.arrays import cache_folder, facts_path, read_prepared, table_path
from benchmark.data.cards import Card, card_of, load_cards
from benchmark.data.prepare import crop_facts
from benchmark.data.stain import fitted_numbers
from benchmark.device import environment
from benchmark.errors import UserError
from benchmark.evaluation.columns import counted_targets
from benchmark.evaluation.experiments import (
    RecordedRun,
    done_runs,
    load_experiments,
    predictions_of,
)
from benchmark.execution.networks import build_network, read_run
from benchmark.execution.runner import test_sets, tested_as
from benchmark.files import sha256_file, temporary_beside, write_json, write_text
from benchmark.laboratory.model_card import model_card, scores_of
from benchmark.laboratory.networks import Network, RunNetwork, ShippedNetwork
from benchmark.laboratory.shipped import (
    AGAIN,
    CARD,
    LARGEST,
    MOST,
    NETWORK,
    PREDICTIONS,
    RECORD,
    Choice,
    KeptMoments,
    KeptPreprocessing,
    KeptStain,
    Shipped,
    ShippedRecord,
    ShownSet,
    all_shipped,
    networks_folder,
    read_shipped,
    shipped_names,
)
from benchmark.metrics import HEADLINE, METRICS
from benchmark.parts import PLAIN
from benchmark.progress import track
from benchmark.scenarios import sources_of
from benchmark.schema import check_name
from benchmark.study.plan import profile_folder
from benchmark.study.predictions import Predictions
from benchmark.study.records import checkpoint_path, network_sha256, predictions_table
from benchmark.study.runs import Run

LICENCE = "Apache-2.0"
TOLERANCE = 0.03
"""Logits that differ by less are the same: half precision rounds logits of 32 by 0.016, another
processor, or another order of sums, by less than a thousandth."""


# --------------------------------------------------------------------------- adding


def add_network(
    root: Path,
    profile: str,
    run_id: str,
    name: str,
    classes: list[str],
    label_space: str,
    chosen: Choice | None = None,
    instead: str | None = None,
) -> Shipped:
    """Put the network of a finished run into the repository, with all that belongs to it.

    Args:
        chosen: how it was chosen; by hand if nothing is said.
        instead: the network whose place it takes.

    Raises:
        UserError: the run is not done, its network does not predict by itself, its checkpoint or
            the profile's images are not here; the file is too large; the name is taken; there are
            three already.
    """
    root = Path(root)
    try:
        check_name(name)
    except ValueError as error:
        raise UserError(f"--name: {error}") from None
    there = shipped_names(root)
    if name in there and name != instead:
        raise UserError(f"{networks_folder(root) / name} is there: choose another name")
    if len([own for own in there if own != instead]) >= MOST:
        raise UserError(
            f"{networks_folder(root)} holds {len(there)} networks ({', '.join(there)}), as many as "
            "a clone shall carry: delete the folder of one of them first"
        )
    network = Network.of_run(root, profile, run_id, classes)
    assert isinstance(network, RunNetwork)
    state = halved(network)
    content = save(state, metadata={"run": run_id})
    if len(content) > LARGEST:
        raise UserError(
            f"{run_id}: its network takes {len(content) / 1e6:.1f} MB in half precision, and "
            f"{LARGEST / 1e6:.0f} MB are the most: choose a smaller backbone"
        )
    trained_sha256 = network_sha256(network.model.state_dict())
    network.model.load_state_dict(state)
    published = without_own(network.record)
    answers = predictions_of_all(network, published)
    with temporary_beside(networks_folder(root) / name, folder=True) as folder:
        (folder / NETWORK).write_bytes(content)
        table = pa.Table.from_pandas(answers, preserve_index=False)
        pq.write_table(table, folder / PREDICTIONS, compression="zstd")
        stain, moments = network.stain, network.moments
        record = ShippedRecord(
            schema_version=1,
            name=name,
            date=datetime.date.today().isoformat(),
            profile=profile,
            run=published,
            label_space=label_space,
            classes=tuple(classes),
            network_sha256=trained_sha256,
            sha256=sha256_file(folder / NETWORK),
            predictions_sha256=sha256_file(folder / PREDICTIONS),
            preprocessing=KeptPreprocessing.model_validate(asdict(network.preprocessing)),
            stain=None
            if stain is None
            else KeptStain(name=network.record.method.stain, fitted=fitted_numbers(stain)),
            colour=KeptMoments(mean=tuple(moments.mean), spread=tuple(moments.spread)),
            ranges=[vars(own) for own in network.ranges],
            sets=shown_sets(root, profile, published),
            chosen=chosen or Choice(by="hand"),
            licence=LICENCE,
            environment=network.run.environment,
            answered_in=environment(network.device),
        )
        whole = record.model_dump(mode="json") | {"run": published.record()}
        write_json(folder / RECORD, whole)
        write_text(folder / CARD, model_card(Shipped(folder, record)))
        for file in folder.iterdir():
            file.chmod(0o644)
        folder.chmod(0o755)
        target = networks_folder(root) / name
        if instead is not None:
            shutil.rmtree(networks_folder(root) / instead, ignore_errors=True)
        folder.rename(target)
    return read_shipped(root, name)


def halved(network: Network) -> dict[str, torch.Tensor]:
    """The state of a network in half precision; what is no floating-point number stays.

    Raises:
        UserError: a value is too large for it.
    """
    state = {
        name: (value.half() if value.is_floating_point() else value).cpu().contiguous()
        for name, value in network.model.state_dict().items()
    }
    for name, value in state.items():
        if not torch.isfinite(value).all():
            raise UserError(
                f"{network.name}: {name} is too large for half precision: choose another run"
            )
    return state


def without_own(run: Run) -> Run:
    """A run as it is published: its record without the test sets that are a laboratory's own."""
    scenario, own = run.scenario, set(run.scenario.own)
    targets = tuple(target for target in scenario.targets if target not in own)
    whole = {key: value for key, value in run.record().items() if key in Run.model_fields}
    whole["scenario"] = scenario.model_copy(update={"targets": targets, "own": ()}).model_dump(
        mode="json", exclude_defaults=True
    ) | {"targets": list(targets)}
    kept = {tested_as(*name) for name in test_sets(run) if name[0] not in own}
    whole["tested"] = {key: value for key, value in run.tested.items() if key in kept}
    return Run.model_validate(whole)


def predictions_of_all(network: Network, run: Run) -> pd.DataFrame:
    """What a network predicts of every test set of a run, as `predictions.parquet` holds it."""
    tables = []
    for name in track(test_sets(run), f"predictions of {network.name}"):
        images = network.prepared(*name)
        logits = network.logits_of_seen(images.pixels)
        tables.append(predictions_table(images.table, images.labels, logits, network.classes))
    return pd.concat(tables, ignore_index=True)


def shown_sets(root: Path, profile: str, run: Run) -> dict[str, ShownSet]:
    """What is told of each domain that a run was trained or tested on."""
    cards = load_cards(root / "datasets")
    label_space = read_prepared(facts_path(root, profile))["label_space"]

    def shown(domain: str, card: Card) -> ShownSet:
        return ShownSet(
            dataset=card.name,
            title=card.domains[domain].title,
            licence=card.licence.name,
            redistribution=card.licence.redistribution,
            citation=card.citation.key,
            crop=crop_facts(card.domains[domain].crop_for(label_space)),
        )

    domains = [*sources_of(run.scenario.source), *run.scenario.targets]
    return {domain: shown(domain, card_of(cards, domain)) for domain in domains}


# --------------------------------------------------------------------------- the rule


@dataclass(frozen=True)
class Standing:
    """A method on one source: what the rule looks at.

    Attributes:
        runs: its finished seeds.
        mean: macro-F1 over the counted targets, mean over the seeds.
        best: the seed with the highest score on id_val.
    """

    runs: list[RecordedRun]
    mean: float
    best: RecordedRun

    @property
    def method(self) -> str:
        return self.best.method.name


def renew(root: Path, profile: str, classes: list[str], label_space: str) -> Iterator[str]:
    """Apply the rule to the finished runs of a profile; yield a line of what was done.

    Nothing is changed unless all networks that the rule chooses are here.

    Raises:
        UserError: no such run; a checkpoint that is needed is not here.
    """
    by_source = standings(root, profile)
    results = profile_folder(root, profile)
    indexed = {run.run_id for one in load_experiments(results) for run in one.runs}
    paths = (results / "runs").glob("*/*/*/run.json")
    found = {path.parent.relative_to(results / "runs").as_posix() for path in paths}
    if others := sorted(found - indexed):
        yield (
            f"note: {len(others)} runs stand in no experiment's index and were not looked at, the "
            f"first {others[0]}: `wbc-shift train -p {profile}` writes the index"
        )
    there = {own.record.name: own for own in all_shipped(root)}
    wanted: list[tuple[str, Standing, Choice]] = []
    for source, known in by_source.items():
        fitting = next((own for own in known if fits(root, profile, own.best, len(classes))), None)
        if fitting is None:
            yield f"{source}: no method's network fits {LARGEST / 1e6:.0f} MB"
        elif len(wanted) < MOST - 1:
            choice = Choice(by="rule", mean=fitting.mean, seeds=len(fitting.runs), among=len(known))
            wanted.append((source, fitting, choice))
        else:
            yield f"{source}: left out, the repository has room for {MOST - 1} sources"
    if wanted:
        source, best, _ = max(wanted, key=lambda one: one[1].mean)
        plain = next((own for own in by_source[source] if is_plain_of(own.best, best.best)), None)
        if plain is None:
            yield f"{source}: no plain network of {best.best.method.backbone} is finished"
        elif plain.best not in [one.best for _, one, _ in wanted]:
            choice = Choice(by="rule", mean=plain.mean, seeds=len(plain.runs), comparison=True)
            wanted.append((source, plain, choice))
    missing = [
        path
        for _, own, _ in wanted
        if not (path := checkpoint_of(root, profile, own.best)).is_file()
        and find_of(there, root, profile, own) is None
    ]
    if missing:
        raise UserError(
            f"{missing[0]} is not on this machine: copy it from where the run was trained "
            f"({len(missing)} of {len(wanted)} networks that the rule chooses are not here)"
        )
    for source, own, choice in wanted:
        seeds = "one seed" if len(own.runs) == 1 else f"{len(own.runs)} seeds"
        mean = f"mean of targets {100 * own.mean:.1f} % over {seeds}"
        if (kept := find_of(there, root, profile, own)) is not None:
            yield f"{source}: kept {kept} ({own.method}, {mean})"
            continue
        role = (source, choice.comparison)
        instead = next((n for n, other in there.items() if role_of(other) == role), None)
        if instead is not None and there[instead].record.profile != profile:
            theirs = scores_of(there[instead]).mean.mean
            if theirs >= own.mean:
                of = there[instead].record.profile
                yield (
                    f"{source}: kept {instead} of profile {of} (mean of its targets "
                    f"{100 * theirs:.1f} %; here {own.method}, {mean})"
                )
                continue
        name = f"{own.method}-{source}".replace("+", "-").replace(".", "-")
        add_network(root, profile, own.best.run_id, name, classes, label_space, choice, instead)
        what = f"added {name}"
        if instead is not None:
            what = f"made {name} anew" if instead == name else f"{instead} gave way to {name}"
        yield f"{source}: {what} ({own.best.run_id}, {mean})"


def role_of(shipped: Shipped) -> tuple[str, bool]:
    """What a network is there for: its source, and whether for comparison."""
    return shipped.record.run.scenario.source, shipped.record.chosen.comparison


def find_of(there: dict[str, Shipped], root: Path, profile: str, own: Standing) -> str | None:
    """The name under which a run's very network is in the repository, with all its test sets."""
    record = read_run(root, profile, own.best.run_id)
    wanted = record.run_id, record.network_sha256, without_own(record).tested
    for name, shipped in there.items():
        run = shipped.record.run
        if (run.run_id, shipped.record.network_sha256, run.tested) == wanted:
            return name
    return None


def standings(root: Path, profile: str) -> dict[str, list[Standing]]:
    """Source → its methods that the rule may choose, the best first."""
    results = profile_folder(root, profile)
    groups: dict[tuple[str, str], dict[str, list[tuple[RecordedRun, float, float]]]] = {}
    for run, classes in done_runs(load_experiments(results)).values():
        method, scenario = run.method, run.scenario
        alone = method.readout == PLAIN["readout"] and method.inference in ("single", "tta")
        if method.is_ensemble or not alone or run.track != "inductive" or scenario.target_groups:
            continue
        known = predictions_of(results, run, classes).known
        counts = [
            np.bincount(known[target].labels, minlength=len(classes))
            for target in scenario.test_sets[1:]
        ]
        counted = counted_targets(scenario, np.array(counts))
        if not counted:
            continue
        mean = np.mean([score(known[name, "shifted"], classes, HEADLINE) for name in counted])
        id_val = score(known[scenario.source, "id_val"], classes, "macro_f1_present")
        by_method = groups.setdefault((scenario.source, scenario.name), {})
        by_method.setdefault(method.name, []).append((run, float(mean), id_val))
    widest: dict[str, dict[str, list[tuple[RecordedRun, float, float]]]] = {}
    for (source, _), by_method in groups.items():
        first = next(iter(by_method.values()))[0][0]
        other = widest.get(source)
        targets = 0 if other is None else len(next(iter(other.values()))[0][0].scenario.targets)
        if len(first.scenario.targets) > targets:
            widest[source] = by_method
    return {
        source: sorted(
            (
                Standing(
                    [run for run, _, _ in own],
                    float(np.mean([mean for _, mean, _ in own])),
                    max(own, key=lambda one: (one[2], -one[0].seed))[0],
                )
                for own in by_method.values()
            ),
            key=lambda standing: (-standing.mean, standing.method),
        )
        for source, by_method in widest.items()
    }


def score(own: Predictions, classes: tuple[str, ...], metric: str) -> float:
    """A metric of a run's predictions of one test set."""
    confusion = metrics.confusion_matrix(own.labels, own.predicted, len(classes))
    return float(METRICS[metric].of_confusion(confusion))


def is_plain_of(run: RecordedRun, other: RecordedRun) -> bool:
    """Whether a run has the backbone and initial weights of another, and is plain in all else."""
    same = ("backbone", "weights", "normalisation", "framing")
    method, shared = run.method, {part: getattr(other.method, part) for part in same}
    plain = {part: value for part, value in PLAIN.items() if part not in same}
    return all(getattr(method, part) == value for part, value in shared.items()) and all(
        (getattr(method, part) or None) == (value or None) for part, value in plain.items()
    )


def checkpoint_of(root: Path, profile: str, run: RecordedRun) -> Path:
    """Where the network of a finished run lies."""
    return checkpoint_path(root, profile, read_run(root, profile, run.run_id).training_fingerprint)


def fits(root: Path, profile: str, run: RecordedRun, classes: int) -> bool:
    """Whether a run's network in half precision is small enough, told without its weights."""
    # Not on the meta device: losses that look at the counts of the classes cannot be built there.
    record = read_run(root, profile, run.run_id)
    model, _ = build_network(record, classes, state_follows=True)
    values = model.state_dict().values()
    size = sum(v.numel() * (2 if v.is_floating_point() else v.element_size()) for v in values)
    return size <= LARGEST


# --------------------------------------------------------------------------- checking


def check(root: Path, shipped: Shipped) -> Iterator[tuple[bool, str]]:
    """Compute a network's card again, from its predictions and, where the prepared images of its
    profile are here, from the network itself.

    Yields:
        Whether it is as stated, and a line about it.
    """
    name, card = shipped.record.name, shipped.folder / CARD
    try:
        shipped.checked(NETWORK, shipped.record.sha256)
        expected = model_card(shipped).splitlines()
        found = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
    except UserError as error:
        yield False, f"{name}: {error}"
        return
    differing = [
        number
        for number, pair in enumerate(zip(expected, found, strict=False), 1)
        if pair[0] != pair[1]
    ]
    if differing or len(expected) != len(found):
        line = differing[0] if differing else min(len(expected), len(found)) + 1
        yield False, f"{card}: line {line} is not what the predictions beside it give: {AGAIN}"
    else:
        tested = len(shipped.record.run.scenario.test_sets)
        yield True, f"{name}: every number of the card, of {tested} test sets, computed again"
    if not table_path(cache_folder(root, shipped.record.profile)).exists():
        yield (
            True,
            (
                f"{name}: the images of profile {shipped.record.profile} are not prepared here, so "
                "that the network itself was not asked again"
            ),
        )
        return
    yield answers_again(root, shipped)


def answers_again(root: Path, shipped: Shipped) -> tuple[bool, str]:
    """Whether the network gives its stored predictions again, and a line about it."""
    name = shipped.record.name
    network = Network.shipped(root, name)
    assert isinstance(network, ShippedNetwork)
    stored = shipped.stored()
    again = predictions_of_all(network, network.record)
    keys = ["domain", "part", "image", "label"]
    if not stored[keys].equals(again[keys].astype(stored[keys].dtypes)):
        return False, (
            f"{name}: other images are prepared here than its predictions are of: "
            f"`wbc-shift fetch` and `prepare` profile {shipped.record.profile} again"
        )
    columns = [f"logit_{one}" for one in network.classes]
    before, after = (table[columns].to_numpy(np.float64) for table in (stored, again))
    apart = np.abs(before - after).max(axis=1)
    top = np.sort(before, axis=1)
    tie = top[:, -1] - top[:, -2] <= 2 * TOLERANCE
    other = before.argmax(axis=1) != after.argmax(axis=1)
    if (apart > TOLERANCE).any() or (other & ~tie).any():
        worst = stored.iloc[int(apart.argmax())]
        return False, (
            f"{name}: {(apart > TOLERANCE).sum()} of {len(stored)} images are answered otherwise "
            f"than stored (logits differ by more than {TOLERANCE}; {worst['image']} of "
            f"{worst['domain']} by {apart.max():.3f})"
        )
    ties = f"{other.sum()} labels differ, all of near ties" if other.any() else "no label differs"
    return True, (
        f"{name}: the network answers {len(stored)} images as stored (logits within {TOLERANCE}, "
        f"the largest difference {apart.max():.4f}; {ties})"
    )
