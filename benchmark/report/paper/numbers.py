"""The numbers of the paper's text: results in, macros by name out."""

from __future__ import annotations

from typing import Any

from benchmark.evaluation.comparisons import SIGNIFICANCE
from benchmark.evaluation.experiments import Experiment
from benchmark.evaluation.resampling import RESAMPLES
from benchmark.evaluation.selective import ACCURACY
from benchmark.metrics import HEADLINE, MINIMUM_SUPPORT
from benchmark.report import facts
from benchmark.report.blocks import METRICS
from benchmark.report.claims import CONFIRMED, OPEN, REFUTED, Verdicts
from benchmark.report.paper.latex import joined
from benchmark.report.write import number

VERDICTS = {"All": "all", "Confirmed": CONFIRMED, "Contradicted": REFUTED, "Open": OPEN}


def numbers(
    profile: str,
    experiments: list[Experiment],
    data: dict[str, Any],
    environment: facts.Environment,
    settings: dict[str, Any],
    audit: facts.AuditSummary | None,
    verdicts: Verdicts,
) -> dict[str, str]:
    """Macro name → its plain text; LaTeX letters are escaped later."""
    runs = {run.run_id: run for experiment in experiments for run in experiment.runs}
    done = [run for run in runs.values() if run.done]
    split = settings["split"]["fractions"]
    values = {
        "Profile": profile,
        "ImageSize": data["image_size"],
        "Framings": framings_text(data),
        "LabelSpace": data["label_space"],
        "Classes": joined(experiments[0].classes),
        "Domains": counted(len(data["domains"]), "domain"),
        "Sets": counted(len({own["dataset"] for own in data["domains"].values()}), "image set"),
        "Images": counted(sum(own["images"] for own in data["domains"].values()), "image"),
        "ForeignImages": sum(
            own.get("open_set", {}).get("images", 0) for own in data["domains"].values()
        ),
        "Experiments": counted(len(experiments), "experiment"),
        "Scenarios": counted(len({run.scenario.name for run in runs.values()}), "scenario"),
        "Methods": counted(len({run.method.name for run in runs.values()}), "method"),
        "RunsPlanned": len(runs),
        "RunsFound": len(done),
        "Seeds": seeds_of(experiments),
        "Trainings": counted(environment.trainings, "training"),
        "HoursComputed": untimed_text(environment.computed),
        "Hours": number(environment.hours),
        "Resamples": RESAMPLES,
        "Significance": f"{100 * SIGNIFICANCE:g} %",
        "Confidence": "95 %",
        "MinimumSupport": MINIMUM_SUPPORT,
        "AcceptedAccuracy": percent(ACCURACY),
        "Headline": METRICS[HEADLINE],
        "SplitSeed": settings["split"]["seed"],
        **{f"Split{''.join(map(str.title, p.split('_')))}": percent(split[p]) for p in split},
        "AuditVerdict": audit.verdict if audit else "was not run",
        "AuditImages": audit.images if audit else 0,
        "AuditKnown": sum(known for *_, known in audit.counts) if audit else 0,
        "AuditWarnings": sum(warnings for _, _, warnings, _ in audit.counts) if audit else 0,
        "AuditFailures": sum(failures for _, failures, _, _ in audit.counts) if audit else 0,
    }
    for name, verdict in VERDICTS.items():
        values[f"Claims{name}"] = verdicts[verdict]
    for name in ("Device", "torch", "timm"):
        values[name.title()] = dict(environment.facts).get(name, "unknown")
    return {name: str(value) for name, value in values.items()}


def seeds_of(experiments: list[Experiment]) -> str:
    """How many seeds the planned runs have: one number, or from the fewest to the most."""
    seeds: dict[tuple, set[int]] = {}
    for experiment in experiments:
        for run in experiment.runs:
            seeds.setdefault((run.scenario.name, run.method.name), set()).add(run.seed)
    counts = sorted({len(own) for own in seeds.values()})
    return counted(counts[0], "seed") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def untimed_text(count: int) -> str:
    """What is said of trainings whose time was not recorded."""
    if not count:
        return ""
    found = counted(count, "training")
    return f"The time of {found} was not recorded, and is computed from epochs and recorded speed."


def percent(share: float) -> str:
    return f"{100 * share:g} %"


def framings_text(data: dict[str, Any]) -> str:
    """The framings of `data.json` in words."""
    found = []
    for name, own in data.get("framings", {}).items():
        size = f"{own['image_size'] or data['image_size']} pixels"
        found.append(f"{name} ({size}, {own['crop']:g} times the side of the usual crop)")
    return joined(found) if found else "none"
