"""Published results: every score of a profile in one tidy table, a row a value, for machines.

`results.parquet` and `results.csv.gz` hold the same rows; `croissant.json` describes them
(Croissant 1.1, https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html). They are
functions of what `train` and `evaluate` wrote: the same input gives the same bytes.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from benchmark.evaluation.columns import summarise
from benchmark.evaluation.differential import ALL, CORRECTED
from benchmark.evaluation.features import in_test_set, majority_of
from benchmark.evaluation.scores import MAJORITY, majority_id
from benchmark.files import atomic, read_yaml, sha256_file, write_json
from benchmark.metrics import HEADLINE
from benchmark.report.facts import image_names
from benchmark.report.notes import weights_of
from benchmark.report.results import Results, values
from benchmark.scenarios import sources_of
from benchmark.settings import Weights
from benchmark.study.numerics import PROTOCOL
from benchmark.study.runs import Scenario

VERSION = "1.0.0"
"""Of the columns and of what their values mean: the first number moves where a reader must change,
the second where columns or metrics are added."""
EVERY_SEED = "all"
SUMMARY = "summary"
FEATURES = "features/"
"""Before the name of a set of frozen features, which is no method of the plan."""
LEVEL = 0.95
DECIMALS = 6
"""What lies beyond may differ from one machine to the next."""
VERDICTS = ("clean", "unknown", "contaminated")
"""From the best to the worst: of several test sets the worst is said."""


class Field(NamedTuple):
    """A column."""

    name: str
    type: pa.DataType
    text: str


TEXT, NUMBER, COUNT = pa.string(), pa.float64(), pa.int64()
FIELDS = (
    Field("profile", TEXT, "Study: a profile of params.yaml."),
    Field("experiments", TEXT, "Experiments that plan the method in this scenario, by spaces."),
    Field("scenario", TEXT, "Who is trained and tested on whom; `a->*` is a on all others."),
    Field("track", TEXT, "inductive, or transductive: adapted to unlabelled target images."),
    Field(
        "method",
        TEXT,
        "Name of the method; `no error` is a count without misreadings, `features/` and a name a "
        "set of frozen features.",
    ),
    Field("source", TEXT, "Domain trained on; of several, joined by +."),
    Field(
        "target",
        TEXT,
        "Domain tested on (`a:jpeg:2` is a's test part, corrupted), or the summary's name: "
        "mean_target, worst_target, shift_drop (in-domain minus mean_target), a corruption or a "
        "severity.",
    ),
    Field(
        "part",
        TEXT,
        "id_test: held-out part of the source; shifted: another domain, or a corrupted copy; "
        "summary: over targets, taken within each seed.",
    ),
    Field("class_name", TEXT, "Class that the value is of; empty: over all classes."),
    Field("metric", TEXT, "What the value is; shares lie between 0 and 1."),
    Field("setting", TEXT, "What else it depends on: key=value, by semicolons; mostly empty."),
    Field("seed", TEXT, "Seed of one run, or `all`: the mean over seeds, or of all of them."),
    Field("value", NUMBER, "The value, to six decimals; empty where it is not defined."),
    Field("low", NUMBER, "Lower end of the interval; empty where there is none."),
    Field("high", NUMBER, "Upper end of the interval."),
    Field("level", NUMBER, "Nominal coverage of the interval."),
    Field(
        "covers",
        TEXT,
        "What the interval covers: images (other test images), images and seeds, or smears (limits "
        "of agreement).",
    ),
    Field("n", COUNT, "Test images behind the value (of the class, if it is of one) in one run."),
    Field("seeds", COUNT, "Seeds behind the value."),
    Field(
        "constant",
        NUMBER,
        "The same score of the majority constant: the commonest class of each test set, answered "
        "for every image. It knows the labels and is no method.",
    ),
    Field(
        "contamination",
        TEXT,
        "Whether the initial weights have seen images of the test sets behind the value: clean, "
        "contaminated or unknown.",
    ),
    Field("protocol", COUNT, "Version of the training protocol."),
)
SCHEMA = pa.schema([pa.field(f.name, f.type, metadata={"description": f.text}) for f in FIELDS])
KEYS = [f.name for f in FIELDS if pa.types.is_string(f.type) and f.name != "covers"]
WHERE = ["scenario", "method"]
PLACE = ["target", "part"]


def write_published(results: Results) -> None:
    """Write `results.parquet`, `results.csv.gz` and `croissant.json` into the results folder."""
    table = published(results)
    paths = {name: results.folder / name for name in FORMATS}
    with atomic(paths["results.parquet"]) as temporary:
        named = table.replace_schema_metadata({"version": VERSION})
        pq.write_table(named, temporary, compression="zstd")
    text = pa.BufferOutputStream()
    pa_csv.write_csv(table, text, pa_csv.WriteOptions(quoting_style="needed"))
    with atomic(paths["results.csv.gz"]) as temporary:
        # Without the time, so that equal content has equal bytes.
        temporary.write_bytes(gzip.compress(text.getvalue(), mtime=0))
    root = results.folder.absolute().parents[1]
    write_json(results.folder / METADATA, croissant(results.folder.name, root, paths))


def published(results: Results) -> pa.Table:
    """The rows, sorted by what they are of; none before the first run is done."""
    if not results.done:
        return SCHEMA.empty_table()
    parts = [
        over_seeds(results),
        of_runs(results),
        differences(results),
        rejection(results),
        open_set(results),
        laboratory(results),
        unlabelled(results),
        severity(results),
        features(results),
    ]
    table = pd.concat([part for part in parts if len(part)], ignore_index=True)
    table["constant"] = table.get("constant", np.nan)
    table = table.merge(methods(results), on=WHERE, how="left")
    table = table.merge(contamination(results), on=[*WHERE, *PLACE], how="left")
    of_sets = constants(results).rename(columns={"n": "n_of_set", "constant": "of_set"})
    table = table.merge(of_sets, on=["scenario", *PLACE, "class_name", "metric"], how="left")
    # One run of several folds is tested on one of them, which is not the set that methods share.
    shared = table["n"].isna() | (table["n"] == table["n_of_set"])
    table["constant"] = table["constant"].fillna(table["of_set"].where(shared))
    table["n"] = table["n"].fillna(table["n_of_set"])
    table["profile"], table["protocol"] = results.folder.name, PROTOCOL
    table["level"] = np.where(table["low"].notna(), LEVEL, np.nan)
    for field in FIELDS:
        if field.name not in table:
            table[field.name] = None
        if field.type == TEXT:
            table[field.name] = table[field.name].fillna("").astype(str)
        elif field.type == COUNT:
            table[field.name] = table[field.name].astype("Int64")
        else:
            # Zero has no sign here.
            table[field.name] = table[field.name].astype(float).round(DECIMALS) + 0.0
    table = table.sort_values(KEYS, kind="stable", ignore_index=True)
    return pa.Table.from_pandas(table[[f.name for f in FIELDS]], SCHEMA, preserve_index=False)


# What is said of every row


def methods(results: Results) -> pd.DataFrame:
    """Track, source and experiments of each method in each scenario."""
    found: dict[tuple[str, str], dict] = {}
    for experiment in results.experiments:
        for run in experiment.runs:
            about = {"track": run.track, "source": run.scenario.source, "experiments": {}}
            own = found.setdefault((run.scenario.name, run.method.name), about)
            own["experiments"][experiment.experiment] = None
    others = [("no error", scenario) for scenario in results.scenarios.values()]
    for own in results.feature_sets:
        others += [(f"{FEATURES}{own.record.name}", one) for one in own.record.scenarios]
    for name, scenario in others:
        about = {"track": "inductive", "source": scenario.source, "experiments": {}}
        found[scenario.name, name] = about
    rows = [
        {"scenario": scenario, "method": method}
        | own
        | {"experiments": " ".join(own["experiments"])}
        for (scenario, method), own in found.items()
    ]
    return pd.DataFrame(rows, columns=[*WHERE, "track", "source", "experiments"])


def contamination(results: Results) -> pd.DataFrame:
    """Verdict of each method in each place; of an ensemble the worst of its members'."""
    names = image_names(results.folder)
    found: dict[tuple[str, ...], str] = {}
    for run_id, run in results.done.items():
        blocks = weights_of(results.records, run_id)

        def verdict(domains: Iterable[str], blocks: list[Weights] = blocks) -> str:
            own = {
                block.contamination(names.get(part, {part}))
                for domain in domains
                for part in sources_of(domain.partition(":")[0])
                for block in blocks
            }
            return max(own, key=VERDICTS.index, default="clean")

        scenario = run.scenario
        places = {test_set: [test_set[0]] for test_set in scenario.test_sets}
        counted = results.scores.counted[scenario.name]
        places |= {(name, SUMMARY): counted for name in ("mean_target", "worst_target")}
        places["shift_drop", SUMMARY] = [scenario.source, *counted]
        for name, rows in scenario.target_groups.items():
            places[name, SUMMARY] = [scenario.targets[row] for row in rows]
        for place, domains in places.items():
            key = (scenario.name, run.method.name, *place)
            found[key] = max(found.get(key, "clean"), verdict(domains), key=VERDICTS.index)
    for own in results.feature_sets:
        for scenario in own.record.scenarios:
            told = own.record.contamination.get(scenario.source, {})
            of_domain = {domain: kind for kind, domains in told.items() for domain in domains}
            places = {test_set: [test_set[0]] for test_set in scenario.test_sets}
            counted = results.scores.counted.get(scenario.name, scenario.targets)
            places["mean_target", SUMMARY] = counted
            for place, domains in places.items():
                kinds = (of_domain.get(domain, "clean") for domain in domains)
                key = (scenario.name, f"{FEATURES}{own.record.name}", *place)
                found[key] = max(kinds, key=VERDICTS.index)
    rows = [(*key, verdict) for key, verdict in found.items()]
    return pd.DataFrame(rows, columns=[*WHERE, *PLACE, "contamination"])


def constants(results: Results) -> pd.DataFrame:
    """Score of the majority constant, and number of images, by place, class and metric."""
    table = results.frame("metrics")
    table = table[table["method"] == MAJORITY]
    own = table[["scenario", "domain", "part", "class_name", "metric", "value", "n"]]
    own = own.rename(columns={"domain": "target", "value": "constant"})
    rows = []
    for name, scenario in results.scenarios.items():
        for metric in table.loc[table["class_name"] == "", "metric"].unique():
            found = values(results.scores, [majority_id(name)], scenario.test_sets, metric)[0]
            columns = summarise(list(found), scenario, results.scores.counted[name])
            # Its answer differs by test set, so it has no shift drop.
            for key in columns.keys() - {"in_domain", "shift_drop", *scenario.targets}:
                rows.append((name, key, SUMMARY, "", metric, float(columns[key])))
    more = pd.DataFrame(rows, columns=["scenario", *PLACE, "class_name", "metric", "constant"])
    return pd.concat([own, more], ignore_index=True)


# Rows


def over_seeds(results: Results) -> pd.DataFrame:
    """Means over seeds with their intervals: what tables and figures show."""
    table = results.frame("intervals")
    places = [
        (name, column, *place)
        for name, scenario in results.scenarios.items()
        for column, place in places_of(scenario).items()
    ]
    places = pd.DataFrame(places, columns=["scenario", "column", *PLACE])
    table = table.merge(places, on=["scenario", "column"], how="left")
    table["target"] = table["target"].fillna(table["column"])
    table["part"] = table["part"].fillna(SUMMARY)
    both = np.where(table["freedom"] > 0, "images and seeds", "images")
    table["covers"] = np.where(table["low"].notna(), both, "")
    table = table.rename(columns={"mean": "value"}).drop(columns=["column", "freedom", "track"])
    return table.assign(seed=EVERY_SEED)


def places_of(scenario: Scenario) -> dict[str, tuple[str, str]]:
    """Column of a table → (target, part), but for summaries."""
    columns = ("in_domain", *scenario.targets)
    return dict(zip(columns, scenario.test_sets, strict=True))


def of_runs(results: Results) -> pd.DataFrame:
    """Scores of single runs; of single classes F1 and recall, and not on single corruptions."""
    table = results.frame("metrics")
    table = table[(table["method"] != MAJORITY) & table["part"].isin(["id_test", "shifted"])]
    corrupted = table["domain"].str.contains(":")
    of_class = table["metric"].isin(["f1", "recall"]) & ~corrupted
    table = table[(table["class_name"] == "") | of_class]
    table = table[[*WHERE, "seed", "domain", "part", "class_name", "metric", "value", "n"]]
    seed = table["seed"].astype(int).astype(str)
    return table.assign(seed=seed, seeds=1).rename(columns={"domain": "target"})


def differences(results: Results) -> pd.DataFrame:
    """What changing one part of a method does to macro-F1: `setting` names part and reference."""
    table = results.effects
    if table.empty:
        return table
    setting = "part=" + table["part"] + ";reference=" + table["reference"]
    places = {name: places_of(scenario) for name, scenario in results.scenarios.items()}
    pairs = [
        places[s].get(column, (column, SUMMARY))
        for s, column in zip(table["scenario"], table["column"], strict=True)
    ]
    table = table.assign(
        **dict(zip(PLACE, zip(*pairs, strict=True), strict=True)),
        setting=setting,
        seed=EVERY_SEED,
        class_name="",
    )
    shared = [*WHERE, *PLACE, "class_name", "setting", "seed", "seeds"]
    found = table[[*shared, "mean", "low", "high"]].rename(columns={"mean": "value"})
    found = found.assign(metric="macro_f1_difference", covers="images and seeds")
    p = table[[*shared, "p_holm"]].rename(columns={"p_holm": "value"})
    return pd.concat([found, p.assign(metric="macro_f1_difference_p_holm")], ignore_index=True)


def tagged(results: Results, table: pd.DataFrame) -> pd.DataFrame:
    """Rows by run id, with scenario and method, and the domain as target."""
    return results.named(table).rename(columns={"domain": "target"})


def melted(table: pd.DataFrame, by: list[str], metrics: dict[str, str]) -> pd.DataFrame:
    """A row for each of some columns: column → metric."""
    long = table.melt(by, list(metrics), "metric", "value")
    return long.assign(metric=long["metric"].map(metrics), class_name="", seed=EVERY_SEED)


def settings_text(table: pd.DataFrame, *names: str) -> pd.Series:
    """`rejector=msp;fit=plain`."""
    parts = [name + "=" + table[name].astype(str) for name in names]
    return parts[0].str.cat(parts[1:], sep=";") if parts[1:] else parts[0]


def rejection(results: Results) -> pd.DataFrame:
    """Rejection by method, rejector and threshold, mean over seeds and as mean of targets.

    `accepted_accuracy` is the mean over the runs that accept any image.
    """
    whole = tagged(results, results.rejection)
    if whole.empty:
        return whole
    counted = tagged(results, results.rejection_counted)
    counted = counted[counted["part"] == "shifted"]
    counted = counted.assign(target="mean_target", part=SUMMARY, n=np.nan)
    table = pd.concat([whole, counted], ignore_index=True)
    by = [*WHERE, *PLACE]
    fitted = {"rejected": "rejected", "accuracy": "accepted_accuracy", "right": "accepted_right"}
    free = ["aurc", "excess_aurc", "coverage_99", "coverage_90"]
    found = []
    for names, metrics in ((["rejector", "fit"], fitted), (["rejector"], {m: m for m in free})):
        groups = table.groupby([*by, *names], sort=False)
        means = groups[list(metrics)].mean()
        means["seeds"], means["n"] = groups["run_id"].nunique(), groups["n"].max()
        means = means.reset_index()
        means["setting"] = settings_text(means, *names)
        found.append(melted(means, [*by, "setting", "seeds", "n"], metrics))
    return pd.concat(found, ignore_index=True).dropna(subset="value")


def open_set(results: Results) -> pd.DataFrame:
    """How confidence tells cells of no class, mean over seeds; n: known and foreign cells."""
    table = tagged(results, results.open_set)
    if table.empty:
        return table
    groups = table.assign(n=table["known_n"] + table["foreign_n"]).groupby(
        [*WHERE, *PLACE, "kind", "rejector"], sort=False
    )
    means = groups[["auroc", "fpr_at_95"]].mean()
    means["seeds"], means["n"] = groups["run_id"].nunique(), groups["n"].first()
    means = means.reset_index()
    means["setting"] = settings_text(means, "kind", "rejector")
    metrics = {"auroc": "open_set_auroc", "fpr_at_95": "open_set_fpr_at_95"}
    return melted(means, [*WHERE, *PLACE, "setting", "seeds", "n"], metrics)


def laboratory(results: Results) -> pd.DataFrame:
    """Differential counts of 200 cells, cells to label, thresholds on local cells."""
    by = [*WHERE, *PLACE, "setting", "seeds", "n"]
    found = []
    table = results.differential
    table = table[(table["patient"] == ALL) & (table["cells"] == CORRECTED)]
    if len(table):
        table = table.rename(columns={"domain": "target", "images": "n"})
        table = table.assign(
            setting=settings_text(table, "cells", "correction"),
            difference=(table["low"] + table["high"]) / 2,
        )
        names = ("truth", "bias", "mae", "inside", "slope", "sensitivity", "specificity")
        of_class = [*by, "class_name"]
        metrics = {name: f"differential_{name}" for name in names}
        long = table.melt(of_class, names, "metric", "value").dropna(subset="value")
        found.append(long.assign(metric=long["metric"].map(metrics)))
        limits = table[[*of_class, "difference", "low", "high"]]
        limits = limits.rename(columns={"difference": "value"})
        found.append(limits.assign(metric="differential_difference", covers="smears"))
    table = results.labels_needed
    if len(table):
        table = table.rename(columns={"domain": "target", "images": "n"})
        table = table.assign(setting=settings_text(table, "stated"))
        names = {"cells": "labels_needed", "errors": "labels_needed_errors"}
        long = table.melt([*by, "class_name"], list(names), "metric", "value")
        found.append(long.assign(metric=long["metric"].map(names)))
    table = results.local_thresholds
    if len(table):
        table = table.rename(columns={"domain": "target"})
        table = table.assign(setting=settings_text(table, "fit", "labels"))
        names = {name: f"local_threshold_{name}" for name in ("coverage", "accuracy", "held")}
        found.append(melted(table, by, names).dropna(subset="value"))
    if not found:
        return pd.DataFrame()
    return pd.concat(found, ignore_index=True).fillna({"class_name": ""}).assign(seed=EVERY_SEED)


def unlabelled(results: Results) -> pd.DataFrame:
    """Accuracy and macro-F1 as estimated without labels, by run; the truth is their own metric."""
    table = tagged(results, results.unlabelled)
    if table.empty:
        return table
    seeds = {run_id: str(run.seed) for run_id, run in results.done.items()}
    table = table.assign(
        metric="estimated_" + table["metric"],
        setting=settings_text(table, "estimator"),
        seed=table["run_id"].map(seeds),
        seeds=1,
        class_name="",
    ).rename(columns={"estimate": "value"})
    own = [*WHERE, *PLACE, "metric", "setting", "seed", "seeds", "class_name", "value", "n"]
    return table[own]


def severity(results: Results) -> pd.DataFrame:
    """Errors by the height at which the lineages part: share of all errors, over all seeds."""
    table = tagged(results, results.severity)
    if table.empty:
        return table
    by = [*WHERE, *PLACE]
    runs = table.drop_duplicates(["run_id", *PLACE]).groupby(by, sort=False)
    whole = runs.agg(seeds=("run_id", "nunique"), n=("n", "first"), height=("lineage", "mean"))
    own = table.groupby([*by, "height"], sort=False)["errors"].sum()
    share = (own / own.groupby(by).transform("sum")).rename("value").reset_index()
    share = share.merge(whole[["seeds", "n"]].reset_index(), on=by)
    share = share.assign(metric="error_share", setting=settings_text(share, "height"))
    mean = whole.reset_index().rename(columns={"height": "value"})
    mean = mean.assign(metric="mean_error_height", setting="")
    both = pd.concat([share.drop(columns="height"), mean], ignore_index=True)
    return both.dropna(subset="value").assign(seed=EVERY_SEED, class_name="")


def features(results: Results) -> pd.DataFrame:
    """Macro-F1 of readouts of frozen features; the method is `features/` and the set's name.

    At home they are tested on one fold, which methods of several seeds are not: number of images
    and constant are of this fold.
    """
    places, at_home = {}, {}
    for own in results.feature_sets:
        for scenario in own.record.scenarios:
            places[scenario.name] = places_of(scenario)
            number = len(in_test_set(own, scenario.name, scenario.test_sets[0]))
            at_home[own.record.name, scenario.name] = number, majority_of(own, scenario)[0]
    rows = []
    for score in results.feature_scores:
        where = places[score.scenario].get(score.column, (score.column, SUMMARY))
        home = at_home[score.features, score.scenario]
        number, constant = home if score.column == "in_domain" else (np.nan, np.nan)
        setting = f"readout={score.readout}"
        names = score.scenario, f"{FEATURES}{score.features}"
        rows.append((*names, *where, setting, *score.value, number, constant))
    columns = [*WHERE, *PLACE, "setting", "value", "low", "high", "seeds", "n", "constant"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(metric=HEADLINE, class_name="", seed=EVERY_SEED, covers="images")


# Croissant


TYPES = {TEXT: "sc:Text", NUMBER: "sc:Float", COUNT: "sc:Integer"}
FORMATS = {"results.csv.gz": "text/csv", "results.parquet": "application/x-parquet"}
METADATA = "croissant.json"
FILES = (*FORMATS, METADATA)
LICENCE = "https://www.apache.org/licenses/LICENSE-2.0"
TERMS = (
    "citeAs column equivalentProperty extract field fileObject fileProperty fileSet format "
    "includes isLiveDataset jsonPath key md5 parentField path recordSet references regex repeated "
    "replace samplingRate separator source subField transform"
)
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
} | {term: f"cr:{term}" for term in TERMS.split()}
"""The context that the specification prescribes, whole: readers compare it."""


def croissant(profile: str, root: Path, paths: dict[str, Path]) -> dict:
    """The metadata of the files as JSON-LD.

    Args:
        root: the project, whose `CITATION.cff` says how to cite it.
        paths: file name → the file, whose digest is taken.
    """
    name = f"wbc-shift-{profile}"
    file = root / "CITATION.cff"
    cited = read_yaml(file) if file.is_file() else {}
    text = f"Results of the profile {profile} of WBC-Shift: scores of white-blood-cell classifiers "
    text += "in the laboratory that they were trained in and in others, a row a value."
    about = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": name,
        "description": text,
        "license": LICENCE,
        "version": VERSION,
        "keywords": list(cited.get("keywords", [])),
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": file_name,
                "name": file_name,
                "contentUrl": file_name,
                "encodingFormat": FORMATS[file_name],
                "contentSize": f"{path.stat().st_size} B",
                "sha256": sha256_file(path),
            }
            for file_name, path in sorted(paths.items())
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "results",
                "name": "results",
                "description": "A row for each value; README and docs explain methods and metrics.",
                "field": [
                    {
                        "@type": "cr:Field",
                        "@id": f"results/{field.name}",
                        "name": field.name,
                        "description": field.text,
                        "dataType": TYPES[field.type],
                        "source": {
                            "fileObject": {"@id": "results.csv.gz"},
                            "extract": {"column": field.name},
                        },
                    }
                    for field in FIELDS
                ],
            }
        ],
    }
    if cited:
        about |= {"citeAs": citation(cited), "creator": creators(cited)}
        asked = {"url": "repository-code", "datePublished": "date-released"}
        about |= {name: str(cited[key]) for name, key in asked.items() if key in cited}
    return about


def creators(cited: dict) -> list[dict]:
    kind = "sc:Organization"
    return [{"@type": kind, "name": str(one.get("name", ""))} for one in cited["authors"]]


def citation(cited: dict) -> str:
    """BibTeX of the software."""
    names = " and ".join(f"{{{one.get('name', '')}}}" for one in cited["authors"])
    title = re.sub(r"\s+", " ", str(cited["title"]))
    return (
        f"@software{{wbcshift, title={{{title}}}, author={{{names}}}, "
        f"version={{{cited['version']}}}, license={{{cited['license']}}}}}"
    )
