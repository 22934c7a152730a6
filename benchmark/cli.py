"""The command `wbc-shift`: one subcommand per arrow of the data flow. Run it in the root folder."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from benchmark.config import Params, load_params
from benchmark.data.cards import Card, card_of, load_cards
from benchmark.errors import UserError
from benchmark.progress import console, say

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
ROOT = Path()
ProfileOption = Annotated[
    str, typer.Option("--profile", "-p", help="A profile of params.yaml: demo, core or full.")
]
FinishedProfile = Annotated[
    str | None,
    typer.Option("--profile", "-p", help="One profile; without it, every one that has results."),
]


def main() -> None:
    """Run the command line; a `UserError` is one line on standard error and exit status 1."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def settings() -> tuple[Params, dict[str, Card]]:
    """The checked `params.yaml` and dataset cards of the project one stands in."""
    return load_params(ROOT / "params.yaml"), load_cards(ROOT / "datasets")


@app.command()
def fetch(profile: ProfileOption = "demo") -> None:
    """Get a profile's images: kept, copied from a mirror, downloaded, or drawn; each is verified.

    WBC_MIRROR=DIR names a folder with the sets in their publishers' layout. WBC_OFFLINE=1 forbids
    the network.
    """
    from benchmark.data.fetch import fetch as fetch_card
    from benchmark.files import write_json

    params, cards = settings()
    chosen = params.profile(profile)
    mirror = os.environ.get("WBC_MIRROR")
    offline = os.environ.get("WBC_OFFLINE", "0") not in ("", "0")
    names = dict.fromkeys(card_of(cards, domain).name for domain in chosen.domains)
    receipt = {}
    for name in names:
        report = fetch_card(
            ROOT / "datasets",
            cards[name],
            chosen.subset,
            Path(mirror) if mirror else None,
            offline,
        )
        say(str(report))
        receipt[name] = {"subset": chosen.subset, "images": report.images}
    write_json(ROOT / "datasets" / "raw" / f"{profile}.json", receipt)


@app.command()
def split() -> None:
    """Cut every source domain into train, id_val, calibration and id_test (datasets/splits/)."""
    from benchmark.data.split import split_domain, split_path

    params, cards = settings()
    for domain in params.sources():
        for line in split_domain(ROOT / "datasets", card_of(cards, domain), domain, params.split):
            say(f"note: {line}")
        say(f"wrote {split_path(ROOT / 'datasets', domain)}")


@app.command()
def prepare(profile: ProfileOption = "demo") -> None:
    """Decode a profile's images once into uint8 arrays (datasets/cache/<profile>/)."""
    from benchmark.data.prepare import prepare as prepare_profile

    params, cards = settings()
    prepare_profile(ROOT, profile, params.profile(profile), cards)


@app.command()
def plan(profile: ProfileOption = "demo") -> None:
    """Expand a profile's experiments into planned runs (results/<profile>/plans/)."""
    from benchmark.plan import plan_profile

    params, _ = settings()
    for name, runs in plan_profile(ROOT, params, profile).items():
        say(f"{profile}/{name}: {len(runs)} runs planned")


@app.command()
def validate(profile: ProfileOption = "demo") -> None:
    """Check settings, data and splits, and show what would run, before anything is spent."""
    from benchmark.validate import validate_profile

    params, cards = settings()
    experiments, problems = validate_profile(ROOT, params, cards, profile)
    table = Table(title=f"profile {profile}", title_justify="left")
    for column in ("experiment", "planned", "done", "skipped", "failed", "to run"):
        table.add_column(column, justify="left" if column == "experiment" else "right")
    for name, outcomes in experiments.items():
        count = Counter(o["outcome"] for o in outcomes)
        failed = count["nan"] + count["oom"] + count["error"]
        row = (len(outcomes), count["done"], count["skipped"], failed, count["missing"])
        table.add_row(name, *map(str, row))
    console.print(table)
    for reason in dict.fromkeys(o["reason"] for runs in experiments.values() for o in runs):
        if reason:
            say(f"note: {reason}")
    for problem in problems:
        say(f"missing: {problem}")
    if problems:
        raise UserError(f"profile {profile}: {len(problems)} things are missing, listed above")


@app.command()
def train(
    profile: ProfileOption = "demo",
    experiment: Annotated[
        str | None, typer.Option("--experiment", "-e", help="One experiment; default: all.")
    ] = None,
) -> None:
    """Carry out the planned runs that are not done; finished ones are never trained again."""
    from benchmark.errors import suggest
    from benchmark.plan import check_plan
    from benchmark.training.runner import train_experiment

    params, _ = settings()
    known = params.profile(profile).experiments
    if experiment is not None and experiment not in known:
        raise UserError(
            f"profile {profile}: no experiment '{experiment}'{suggest(experiment, known)}"
        )
    for name in [experiment] if experiment else known:
        check_plan(ROOT, params, profile, name)
        train_experiment(ROOT, profile, name)


@app.command()
def evaluate(profile: FinishedProfile = None) -> None:
    """Compute every metric from the stored predictions; needs no images."""
    from benchmark.evaluation.evaluate import evaluate as evaluate_results

    for folder in result_folders(profile):
        evaluate_results(folder)
        say(f"wrote {folder / 'metrics.parquet'}")


@app.command()
def report(
    profile: FinishedProfile = None,
    strict: Annotated[bool, typer.Option(help="Fail if any planned run is not done.")] = False,
) -> None:
    """Write tables, figures and the page of results/<profile>/ from the metrics."""
    from benchmark.report.report import report as report_results

    for folder in result_folders(profile):
        report_results(folder, strict=strict)


@app.command()
def pipeline(
    check: Annotated[
        bool, typer.Option(help="Only compare; fail if a file is out of date.")
    ] = False,
) -> None:
    """Write the dvc.yaml of every profile from params.yaml."""
    from benchmark.pipeline import write_pipelines

    params, cards = settings()
    write_pipelines(ROOT, params, cards, check)


def result_folders(profile: str | None) -> list[Path]:
    """Folders below results/ whose experiments have an index; one, if a profile is named."""
    results = ROOT / "results"
    if profile:
        if not (results / profile / "experiments").is_dir():
            raise UserError(
                f"{results / profile} has no results: run `wbc-shift train -p {profile}`"
            )
        return [results / profile]
    found = sorted(path.parent for path in results.glob("*/experiments"))
    if not found:
        raise UserError(
            "results/ holds no finished experiment: run `dvc repro` or `wbc-shift train`"
        )
    return found
