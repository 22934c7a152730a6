"""The command `wbc-shift`: one subcommand per arrow of the data flow. Run it in the root folder."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.table import Table
from typer import Argument, Option
from typer.core import TyperCommand, TyperGroup

from benchmark import __version__
from benchmark.errors import UserError, suggest
from benchmark.files import read_yaml
from benchmark.parallel import INTERRUPTED, interrupts_told
from benchmark.progress import console, say, say_each
from benchmark.schema import DEFAULT_PROFILE, PARAMS, Subset, check_name
from benchmark.texts import visible

if TYPE_CHECKING:  # what a command needs it imports itself, so that help and completion are quick
    from benchmark.data.cards import Card
    from benchmark.laboratory.networks import Network
    from benchmark.settings import Params

ROOT = Path()
DATASETS = ROOT / "datasets"
DATA, STUDY, RESULTS, LABORATORY = "Data", "Study", "Results", "Your own laboratory"
"""Groups of the commands, in the order of `wbc-shift --help`."""


def in_project(invoke: Callable[[typer.Context], Any], context: typer.Context) -> Any:
    """Invoke what works on the project one stands in, and knows when one stands elsewhere."""
    for needed in (ROOT / PARAMS, DATASETS):
        if not needed.exists():
            raise UserError(f"{needed} is not here: run in the project's root folder")
    try:
        return invoke(context)
    except KeyboardInterrupt:
        # `interrupts_told` has told it; what typer would print of it comes too late.
        raise SystemExit(INTERRUPTED) from None


class InProject(TyperCommand):
    """A command that works on the project."""

    def invoke(self, context: typer.Context) -> Any:
        return in_project(super().invoke, context)


class GroupInProject(TyperGroup):
    """The same of a group that is a command by itself too."""

    def invoke(self, context: typer.Context) -> Any:
        return in_project(super().invoke, context)


app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
domain_commands = typer.Typer(
    help="Add your own images as a domain, and see what tells domains apart.", no_args_is_help=True
)
app.add_typer(domain_commands, name="domain", rich_help_panel=LABORATORY)
domain_command = functools.partial(domain_commands.command, cls=InProject)
network_commands = typer.Typer(cls=GroupInProject)
app.add_typer(network_commands, name="networks", rich_help_panel=LABORATORY)


def command(group: str, name: str | None = None) -> Any:
    """Register a function as a command, shown in a group of `--help`, by its name or another."""
    return app.command(name, cls=InProject, rich_help_panel=group)


def named_profile(name: str) -> str:
    """A profile's name, which becomes a folder below results/; else a `UserError`."""
    try:
        return check_name(name, "profile")
    except ValueError as error:
        raise UserError(f"--profile: {error}") from None


def settings_as_written() -> dict[str, Any]:
    """`params.yaml` unchecked, for completion; empty where there is none that can be read."""
    try:
        found = read_yaml(ROOT / PARAMS)
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}


def complete_profile(incomplete: str) -> list[str]:
    profiles = settings_as_written().get("profiles") or {}
    return [name for name in profiles if name.startswith(incomplete)]


def complete_experiment(context: typer.Context, incomplete: str) -> list[str]:
    profiles = settings_as_written().get("profiles") or {}
    profile = profiles.get(context.params.get("profile") or DEFAULT_PROFILE) or {}
    return [name for name in profile.get("experiments") or {} if name.startswith(incomplete)]


def complete_run(context: typer.Context, incomplete: str) -> list[str]:
    runs = ROOT / "results" / (context.params.get("profile") or DEFAULT_PROFILE) / "runs"
    found = sorted(path.parent.relative_to(runs).as_posix() for path in runs.glob("*/*/*/run.json"))
    return [run for run in found if run.startswith(incomplete)]


def complete_network(incomplete: str) -> list[str]:
    found = sorted(path.parent.name for path in ROOT.glob("results/networks/*/network.json"))
    return [name for name in found if name.startswith(incomplete)]


def complete_adaptation(incomplete: str) -> list[str]:
    return [name for name in ("batch", "colour") if name.startswith(incomplete)]


def complete_run_or_network(context: typer.Context, incomplete: str) -> list[str]:
    return complete_network(incomplete) + complete_run(context, incomplete)


def complete_card(incomplete: str) -> list[str]:
    cards = sorted(path.stem for path in DATASETS.glob("*.yaml"))
    return [name for name in cards if name.startswith(incomplete) and name != "label_spaces"]


ProfileOption = Annotated[
    str,
    Option(
        "--profile",
        "-p",
        callback=named_profile,
        autocompletion=complete_profile,
        help="A profile of params.yaml, as shipped: demo, phantom, dose, core, core2 or full.",
    ),
]
LabelledFolder = Annotated[
    Path,
    Argument(
        help="A folder per class, what --labels names, or fields with boxes (VOC, YOLO, COCO)."
    ),
]
LabelsOption = Annotated[
    Path | None, Option(help="CSV with the columns path, label and perhaps group, or boxes.")
]
CropOption = Annotated[
    float | None,
    Option(min=0.05, max=1.0, help="Part of an image's side that is one cell; default: all of it."),
]
NetworkOption = Annotated[
    str | None,
    Option(
        autocompletion=complete_network,
        help="One of `wbc-shift networks`; default: the recommended one.",
    ),
]
RunOption = Annotated[
    str | None,
    Option(
        autocompletion=complete_run,
        help="Instead, a finished run of --profile: METHOD/SCENARIO/seedK.",
    ),
]
AccuracyOption = Annotated[
    float, Option(min=0.5, max=0.999, help="Of accepted predictions, on the source.")
]
MapOption = Annotated[
    list[str] | None, Option("--map", help="A label's cell type: 'Neutro=neutrophil'.")
]


def main() -> None:
    """Run the command line; a `UserError` is one line on standard error and exit status 1."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # What the terminal's encoding lacks, or bytes of a file name, are written out.
            stream.reconfigure(errors="backslashreplace")
    with interrupts_told():
        try:
            try:
                app()
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()
        except UserError as error:
            tell(str(error))
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except OSError as error:
            if error.filename is not None or not lost(sys.stdout):
                raise
            tell(f"standard output cannot be written ({error.strerror}): what was finished is kept")


def tell(reason: str) -> None:
    """Print the line of an error, if anybody can hear it, and end with status 1."""
    with contextlib.suppress(OSError, AttributeError):
        print(f"error: {visible(reason)}", file=sys.stderr, flush=True)
    if lost(sys.stdout):
        # Python would try again when it ends, and say so in several lines.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


def lost(stream: Any) -> bool:
    """Whether a stream can no longer be written to."""
    try:
        stream.flush()
    except OSError:
        return True
    except (AttributeError, ValueError):
        pass  # there is none
    return False


def show_version(asked: bool) -> None:
    if asked:
        say(f"wbc-shift {__version__}")
        raise typer.Exit


@app.callback(help=__doc__)
def common(
    version: Annotated[
        bool,
        Option("--version", callback=show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """What all commands share."""


def settings() -> tuple[Params, dict[str, Card]]:
    """The checked `params.yaml` and dataset cards of the project one stands in."""
    from benchmark.data.cards import load_cards
    from benchmark.settings import load_params

    return load_params(ROOT / PARAMS), load_cards(DATASETS)


def classes_of(profile: str) -> list[str]:
    """The classes that a profile is scored on."""
    from benchmark.data.cards import load_label_spaces

    params, _ = settings()
    return load_label_spaces(DATASETS)[params.profile(profile).label_space]


def warn_of_stages(params: Params, profile: str) -> None:
    """Name the experiments that `dvc repro` would skip silently."""
    from benchmark.study.pipeline import without_stage

    if missing := without_stage(ROOT, params, profile):
        names = ", ".join(missing)
        say(
            f"warning: {names}: no stage in the dvc.yaml of {profile}, so `dvc repro` skips "
            "it: run `wbc-shift pipeline`"
        )


def surroundings() -> tuple[Path | None, bool]:
    """The mirror that WBC_MIRROR names, and whether WBC_OFFLINE forbids the network."""
    mirror = os.environ.get("WBC_MIRROR")
    return Path(mirror) if mirror else None, os.environ.get("WBC_OFFLINE", "0") not in ("", "0")


def results_of(profile: str) -> Path:
    """The results folder of a profile of which something was trained; else a `UserError`."""
    folder = ROOT / "results" / profile
    if not (folder / "experiments").is_dir():
        settings()[0].profile(profile)  # a name that is mistyped is told first
        raise UserError(f"{folder} has no results: run `wbc-shift train -p {profile}`")
    return folder


def cell_types_told(pairs: list[str] | None) -> dict[str, str]:
    """Label → cell type, of options `label=cell type`; a label may hold `=` itself."""
    for pair in pairs or []:
        if "=" not in pair:
            raise UserError(f"--map {pair}: write label=cell_type, as in 'Neutro=neutrophil'")
    return dict(map(str.strip, pair.rpartition("=")[::2]) for pair in pairs or [])


@command(DATA)
def fetch(
    profile: ProfileOption = DEFAULT_PROFILE,
    names: Annotated[
        list[str] | None,
        Argument(autocompletion=complete_card, help="Cards or domains; default: a profile's."),
    ] = None,
    subset: Annotated[
        str,
        Option(help="Of the named cards or domains: all images, or the core or sample of them."),
    ] = "all",
    listed: Annotated[
        bool, Option("--list", help="Only say what is here and how to get the rest.")
    ] = False,
) -> None:
    """Get images: kept, copied from a mirror, downloaded, unpacked, or drawn; each is verified.

    Reads the cards and manifests in datasets/, and WBC_MIRROR=DIR, a folder with the sets in their
    publishers' layout. Writes datasets/raw/. WBC_OFFLINE=1 forbids the network.
    """
    from benchmark.acquire.fetch import fetch as fetch_card
    from benchmark.acquire.fetch import named
    from benchmark.data.cards import card_of, load_cards
    from benchmark.files import write_json

    mirror, offline = surroundings()
    if listed:
        from benchmark.acquire.inventory import lines

        cards = load_cards(DATASETS)
        if names:
            cards = {card.name: card for card, _ in named(cards, names)}
        for card in cards.values():
            say("\n".join(lines(DATASETS, card, mirror)))
        return
    if names:
        if subset not in get_args(Subset):
            raise UserError(f"--subset {subset}: use one of {', '.join(get_args(Subset))}")
        for card, domain in named(load_cards(DATASETS), names):
            say(str(fetch_card(DATASETS, card, subset, mirror, offline, domain)))
        return
    params, cards = settings()
    chosen = params.profile(profile)
    receipt = {}
    for name in dict.fromkeys(card_of(cards, domain).name for domain in chosen.domains):
        report = fetch_card(DATASETS, cards[name], chosen.subset, mirror, offline)
        say(str(report))
        receipt[name] = {"subset": chosen.subset, "images": report.images}
    write_json(DATASETS / "raw" / f"{profile}.json", receipt)


@command(DATA)
def doctor(
    links: Annotated[
        bool, Option(help="Also ask every address of the cards whether it answers.")
    ] = False,
) -> None:
    """Check this machine, the cards and the mirror; exit 1 if something is broken.

    Reads datasets/ and the installed packages. Writes nothing.
    """
    from benchmark.acquire.doctor import check_cards, check_environment, check_links

    mirror, offline = surroundings()
    cards, checks = check_cards(DATASETS)
    checks += check_environment(DATASETS, cards, mirror, offline)
    say_each(checks)
    if links:
        answers = check_links(DATASETS, cards, offline)
        say_each(answers)
        checks += answers
    if broken := sum(check.verdict == "broken" for check in checks):
        raise UserError(f"{broken} of {len(checks)} checks found something broken, listed above")


@command(DATA)
def split(
    anew: Annotated[
        list[str] | None,
        Option(metavar="DOMAIN", help="Make this split again: runs trained on it are stale."),
    ] = None,
) -> None:
    """Cut every source domain into train, id_val, calibration and id_test.

    A split that is there is kept, if it holds exactly the images of its domain. Reads params.yaml
    and the manifests, no image. Writes datasets/splits/<domain>.csv, and <n>_folds/<domain>.csv for
    profiles with folds.
    """
    from benchmark.data.cards import card_of
    from benchmark.data.split import check_split, split_domain, split_into_folds, split_path

    params, cards = settings()
    sources = params.sources()
    for domain in anew or []:
        if domain not in sources:
            raise UserError(f"--anew {domain}: no such source domain{suggest(domain, sources)}")
    paths = {domain: split_path(DATASETS, domain) for domain in sources}
    kept = [d for d in sources if d not in (anew or []) and paths[d].exists()]
    for domain in kept:
        check_split(DATASETS, card_of(cards, domain), domain)
        say(f"kept {paths[domain]}")
    for domain in [domain for domain in sources if domain not in kept]:
        notes = split_domain(DATASETS, card_of(cards, domain), domain, params.split)
        say_each(f"note: {line}" for line in notes)
        say(f"wrote {paths[domain]}")
    for domain, folds in [(d, folds) for d in sources for folds in params.folds_of(d)]:
        card, path = card_of(cards, domain), split_path(DATASETS, domain, folds)
        if domain in kept and path.exists():
            check_split(DATASETS, card, domain, folds)
            say(f"kept {path}")
        else:
            split_into_folds(DATASETS, card, domain, params.split, folds)
            say(f"wrote {path}")


@command(DATA)
def audit(
    profile: ProfileOption = DEFAULT_PROFILE,
    manifest: Annotated[
        Path | None,
        Option(help="Only name the equal files of this manifest, by their hashes."),
    ] = None,
) -> None:
    """Look for leaks, copies, conflicting labels and broken images; exit 1 on any of them.

    Reads the fetched images, manifests and splits. Writes results/<profile>/audit.json and
    audit.html, which shows images and stays out of git.
    """
    if manifest is not None:
        from benchmark.audit.equal_files import audit_manifest
        from benchmark.data.cards import load_cards

        cards = load_cards(DATASETS)
        lines, open_conflicts = audit_manifest(DATASETS, cards, manifest)
        say_each(lines)
        if open_conflicts:
            raise UserError(f"{manifest}: {open_conflicts[0]}: exclude both")
        return
    from benchmark.audit.audit import audit_profile

    params, cards = settings()
    found = audit_profile(ROOT, params, cards, profile)
    say(
        f"audit of profile {profile} passed: {len(found.warnings)} new findings, "
        f"{len(found.known)} known cases: see {ROOT / 'results' / profile / 'audit.html'}"
    )


@command(DATA)
def prepare(profile: ProfileOption = DEFAULT_PROFILE) -> None:
    """Decode a profile's images once into uint8 arrays.

    Reads the fetched images. Writes datasets/cache/<profile>/ and results/<profile>/data.json.
    """
    from benchmark.data.prepare import prepare as prepare_profile
    from benchmark.domains.ranges import write_ranges

    params, cards = settings()
    prepare_profile(ROOT, profile, params.profile(profile), cards)
    write_ranges(ROOT, params, profile)


@command(STUDY)
def validate(profile: ProfileOption = DEFAULT_PROFILE) -> None:
    """Check settings, data and splits, and show what would run, before anything is spent.

    Reads params.yaml, datasets/, finished runs and measured speeds. Writes nothing.
    """
    from benchmark.speed.forecast import forecast_profile
    from benchmark.study.validate import tell_work, validate_profile

    params, cards = settings()
    experiments, problems, to_do = validate_profile(ROOT, params, cards, profile)
    table = Table(title=f"profile {profile}", title_justify="left")
    columns = ("experiment", "planned", "done", "skipped", "failed", "to predict", "to train")
    for column in columns:
        table.add_column(column, justify="left" if column == "experiment" else "right")
    for name, outcomes in experiments.items():
        count = Counter(o["outcome"] for o in outcomes)
        failed = count["nan"] + count["oom"] + count["error"]
        work = Counter(o["work"] for o in outcomes)
        row = (len(outcomes), count["done"], count["skipped"], failed)
        row += (work["predict"], work["train"])
        table.add_row(name, *map(str, row))
    console.print(table)
    every = [outcome for outcomes in experiments.values() for outcome in outcomes]
    say_each(f"note: {reason}" for reason in dict.fromkeys(o["reason"] for o in every) if reason)
    planned = [outcome["run_id"] for outcome in every]
    say_each(f"note: {line}" for line in tell_work(ROOT, profile, to_do, planned))
    if to_do:
        say_each(forecast_profile(ROOT, params, cards, profile, to_do))
    warn_of_stages(params, profile)
    say_each(f"missing: {problem}" for problem in problems)
    if problems:
        raise UserError(f"profile {profile}: {len(problems)} things are missing, listed above")


@command(STUDY)
def plan(profile: ProfileOption = DEFAULT_PROFILE) -> None:
    """Expand a profile's experiments into planned runs.

    Reads params.yaml, the splits and results/<profile>/data.json. Writes results/<profile>/plans/.
    """
    from benchmark.study.plan import plan_profile
    from benchmark.study.records import finished, told_of

    params, _ = settings()
    for name, runs in plan_profile(ROOT, params, profile).items():
        left = [run for run in runs if not finished(ROOT, profile, run)]
        say(f"{profile}/{name}: {told_of(ROOT, profile, runs, left)}")
    warn_of_stages(params, profile)


@command(STUDY)
def pipeline(
    check: Annotated[bool, Option(help="Only compare; fail if a file is out of date.")] = False,
    code: Annotated[
        bool, Option("--code", help="Only write the digests of the code, as the pipeline does.")
    ] = False,
) -> None:
    """Write the dvc.yaml of every profile.

    Reads params.yaml and the cards. Writes dvc.yaml and pipelines/<profile>/dvc.yaml; with --code
    pipelines/code.yaml alone.
    """
    from benchmark.study.pipeline import write_code, write_pipelines

    if code:
        write_code(ROOT)
        return
    params, cards = settings()
    write_pipelines(ROOT, params, cards, check)


@command(STUDY)
def models(profile: ProfileOption = DEFAULT_PROFILE) -> None:
    """Show what a profile's networks cost: parameters, multiply-adds, activation memory, norms.

    Reads params.yaml. Writes nothing.
    """
    from benchmark.models.summary import Summary, summarise_profile

    params, _ = settings()
    classes = len(classes_of(profile))
    table = Table(title="per image, in fp32")
    table.add_column("network", no_wrap=True)
    for column in ("size (px)", "parameters (M)", "trained (M)", "multiply-adds (G)"):
        table.add_column(column, justify="right")
    table.add_column("activations (MiB)", justify="right")
    table.add_column("norm layers")
    for (*names, size), cost in summarise_profile(params, profile, classes).items():
        if isinstance(cost, Summary):
            numbers = (cost.parameters / 1e6, cost.trainable / 1e6, cost.multiply_adds / 1e9)
            norms = ", ".join(f"{n} {kind}" for kind, n in cost.norms.items()) or "none"
            memory = f"{cost.activation_bytes / 2**20:.1f}"
            network = " ".join(name for name in names if name not in ("linear", "none"))
            table.add_row(network, str(size), *(f"{n:.3f}" for n in numbers), memory, norms)
        else:
            say(f"note: {cost}")
    console.print(table)


@command(STUDY)
def train(
    profile: ProfileOption = DEFAULT_PROFILE,
    experiment: Annotated[
        str | None,
        Option("--experiment", "-e", autocompletion=complete_experiment, help="Default: all."),
    ] = None,
    method: Annotated[str | None, Option(help="One method alone, by name.")] = None,
    scenario: Annotated[str | None, Option(help="Where --method is trained, tested.")] = None,
    seed: Annotated[int, Option(help="Seed of --method.")] = 0,
) -> None:
    """Carry out the planned runs that are not done; finished ones are never trained again.

    Reads the plans, prepared images and splits. Writes results/<profile>/runs/ (the predictions),
    checkpoints/, which git ignores, and experiments/, an index of each experiment.
    """
    from benchmark.execution.runner import train_experiment, train_one
    from benchmark.study.plan import check_plan, plan_one, where_single_runs_stand

    params, _ = settings()
    known = params.profile(profile).experiments
    if method is not None or scenario is not None:
        if method is None or scenario is None or experiment is not None:
            raise UserError("train: give --method and --scenario together, without --experiment")
        runs = plan_one(ROOT, params, profile, method, scenario, seed)
        train_one(ROOT, profile, classes_of(profile), runs)
        say_each(where_single_runs_stand(ROOT, profile, runs))
        return
    if experiment is not None and experiment not in known:
        raise UserError(
            f"profile {profile}: no experiment '{experiment}'{suggest(experiment, known)}"
        )
    for name in [experiment] if experiment else known:
        check_plan(ROOT, params, profile, name)
        train_experiment(ROOT, profile, name)


@command(STUDY)
def launch(
    profile: ProfileOption = DEFAULT_PROFILE,
    address: Annotated[
        str | None, Option(help="A Ray cluster (host:port or auto); default: this machine.")
    ] = None,
    workers: Annotated[
        int | None, Option(min=1, help="Runs at once on this machine; default: processors.")
    ] = None,
    gpus_per_run: Annotated[
        float | None, Option(min=0, max=1, help="Share of a GPU that a run takes.")
    ] = None,
) -> None:
    """Carry out a profile's missing runs on many processors, GPUs or machines, through Ray.

    Without --address it starts a Ray of its own on this machine, which listens to this machine
    alone; RAY_ADDRESS and clusters that run here are left alone.

    Reads and writes what `train` does.
    """
    from benchmark.execution.launch import launch as launch_profile
    from benchmark.study.plan import check_plan

    params, _ = settings()
    experiments = list(params.profile(profile).experiments)
    for name in experiments:
        check_plan(ROOT, params, profile, name)
    launch_profile(ROOT, profile, experiments, address, workers, gpus_per_run)


@command(STUDY)
def speed(
    profile: ProfileOption = DEFAULT_PROFILE,
    models: Annotated[
        list[str] | None, Option(help="Backbones to measure; default: the profile's.")
    ] = None,
    precisions: Annotated[
        list[str] | None,
        Option("--precision", help="fp32, bf16 or bf16_cpu; default: the profile's."),
    ] = None,
    layouts: Annotated[
        list[str] | None, Option("--layout", help="channels_last (default) or contiguous.")
    ] = None,
) -> None:
    """Measure how fast this machine decodes, trains and predicts.

    Reads params.yaml, and images where they are fetched. Writes results/speed/.
    """
    from benchmark.device import choose_device, configure
    from benchmark.speed.measure import LAYOUTS, PRECISIONS, measure_speed
    from benchmark.speed.records import write_throughput

    for asked, known in ((precisions, PRECISIONS), (layouts, LAYOUTS)):
        for name in asked or []:
            if name not in known:
                raise UserError(f"speed: unknown '{name}'{suggest(name, known)}")
    params, cards = settings()
    device = choose_device()
    configure(device)
    what = (models or [], precisions or [], layouts or [])
    written = measure_speed(ROOT, params, cards, profile, *what, device)
    say_each(f"wrote {path}" for path in [*written, write_throughput(ROOT)])


@command(RESULTS)
def evaluate(profile: ProfileOption = DEFAULT_PROFILE) -> None:
    """Compute every metric from the stored predictions; needs no images.

    Reads results/<profile>/experiments/ and runs/. Writes metrics.parquet and the other tables of
    scores beside them.
    """
    from benchmark.evaluation.evaluate import evaluate as evaluate_results

    evaluate_results(results_of(profile))


@command(RESULTS)
def report(
    profile: ProfileOption = DEFAULT_PROFILE,
    strict: Annotated[bool, Option(help="Fail if any planned run is not done.")] = False,
) -> None:
    """Write tables, figures and the page of a profile.

    Reads what `evaluate` wrote. Writes tables/, figures/, report.html and pages/ to
    results/<profile>/.
    """
    from benchmark.report.report import report as report_results

    report_results(results_of(profile), strict=strict)


@command(RESULTS)
def compare(
    first: Annotated[str, Argument(help="A method, by name.")],
    second: Annotated[str, Argument(help="The method it is compared with.")],
    profile: ProfileOption = DEFAULT_PROFILE,
    scenario: Annotated[str | None, Option(help="One scenario; default: all of both.")] = None,
) -> None:
    """Is one method better than another? Paired by image and seed, in words, with the interval.

    Reads the predictions of finished runs. Writes nothing.
    """
    from benchmark.evaluation.compare import compare_methods

    say_each(compare_methods(results_of(profile), first, second, scenario))


@command(RESULTS)
def score(
    predictions: Annotated[
        Path | None, Argument(help="CSV with the columns named above; or see --images.")
    ] = None,
    profile: ProfileOption = DEFAULT_PROFILE,
    scenario: Annotated[
        str | None, Option(help="Scenario of the profile that was predicted.")
    ] = None,
    truth: Annotated[
        Path | None,
        Option(help="WBCBench: your own file of true labels (ID,labels), scored against it."),
    ] = None,
    images: Annotated[
        Path | None, Option(help="Only write the scenario's test images to this CSV.")
    ] = None,
    features: Annotated[
        Path | None, Option(help="Instead, a file of features of every cell (parquet or npz).")
    ] = None,
    name: Annotated[
        str | None, Option(help="Of the features in tables; default: that of the file.")
    ] = None,
) -> None:
    """Score your own predictions or features, from any framework, and place them among ours.

    Columns: `image` (path as in --images, or the end of it); `prediction` (a class; `label` is the
    same) or a column of probabilities per class, `<class>` or `p_<class>`, or both; `domain` where
    image names are not enough. The CSV that `wbc-shift predict` writes is one. Every image of a
    domain needs one prediction. With --truth the columns are `ID` and `labels`. Reads the
    predictions of finished runs too; writes nothing, unless --images is given.

    With --features the same four readouts are fitted on each source for everybody
    (docs/features.md); --images FILE without --scenario lists the cells that need a vector. Writes
    results/<profile>/features/NAME/.
    """
    from benchmark.evaluation.submission import score_challenge, score_submission, write_test_images

    if features is not None or (images is not None and scenario is None and truth is None):
        if predictions is not None or scenario is not None or truth is not None:
            raise UserError("score: --features is scored on every scenario of the profile, alone")
        score_or_list_features(profile, features, name, images)
        return
    if (scenario is None) == (truth is None):
        raise UserError("score: give --scenario, or --truth for a submission to WBCBench")
    if (predictions is None) == (images is None):
        raise UserError("score: name a file of predictions, or --images FILE for the test images")
    if truth is not None:
        if predictions is None:
            raise UserError("score: --images lists the images of a --scenario")
        scores, notes = score_challenge(predictions, truth)
        say_each(notes)
        for name, value in scores._asdict().items():
            say(f"{name.replace('_', ' ')}: {value:.4f}")
    elif images is not None:
        number = write_test_images(images, results_of(profile), scenario)
        say(f"wrote {images}: {number} test images")
    else:
        say_each(score_submission(predictions, results_of(profile), scenario))


def score_or_list_features(
    profile: str, features: Path | None, name: str | None, images: Path | None
) -> None:
    """What `score` does with --features, or with --images alone."""
    from benchmark.evaluation.feature_files import cells_of, write_cells
    from benchmark.evaluation.feature_scores import score_file
    from benchmark.evaluation.scores import MAJORITY

    params, cards = settings()
    cells = cells_of(ROOT, params, cards, profile)
    if images is not None:
        number, missing = write_cells(images, ROOT, cells)
        say(f"wrote {images}: {number} cells that need a vector each")
        if missing:
            say(f"note: {missing} of the files are not here: `wbc-shift fetch -p {profile}`")
    if features is not None:
        try:
            chosen = check_name(name or features.stem)
        except ValueError as error:
            raise UserError(f"--name: {error}") from None
        if chosen == MAJORITY:
            raise UserError(f"--name: '{chosen}' is the row of the constant: choose another name")
        say_each(score_file(cells, ROOT / "results" / profile, features, chosen))


@command(RESULTS)
def paper(profile: ProfileOption = DEFAULT_PROFILE) -> None:
    """Write the numbers, tables and figures that paper/*.tex read.

    Reads what `report` wrote and params.yaml. Writes paper/generated/.
    """
    from benchmark.report.paper.paper import write_paper

    say(f"wrote {write_paper(ROOT, profile)}: build the PDF with `make paper`")


@command(RESULTS)
def gallery(
    run: Annotated[
        str | None,
        Argument(help="METHOD/SCENARIO/seedK; without it, all runs vote, as in the report."),
    ] = None,
    profile: ProfileOption = DEFAULT_PROFILE,
) -> None:
    """Show the most confident errors on every test set.

    Reads predictions and the prepared images. Writes results/<profile>/gallery/, which is not for
    git.
    """
    from benchmark.report.confident_errors import write_gallery

    path = write_gallery(ROOT, profile, run)
    say(f"wrote {path}; it shows images of other publishers: keep it on this machine")


@command(RESULTS)
def embed(
    runs: Annotated[
        list[str],
        Argument(autocompletion=complete_run, help="Finished runs: METHOD/SCENARIO/seedK."),
    ],
    profile: ProfileOption = DEFAULT_PROFILE,
) -> None:
    """Project the features of runs to two dimensions by t-SNE.

    Reads their checkpoints and the prepared images. Writes results/<profile>/embeddings/, from
    which the report draws.
    """
    from benchmark.execution.embedding import embed as embed_runs

    say_each(f"wrote {path}" for path in embed_runs(ROOT, profile, classes_of(profile), runs))


@command(RESULTS, "unlabelled-cells")
def unlabelled_cells(
    context: typer.Context,
    network: NetworkOption = None,
    run: RunOption = None,
    profile: ProfileOption = DEFAULT_PROFILE,
    draws: Annotated[int, Option(min=1, max=10, help="Of each target: the first so many.")] = 10,
    method: Annotated[list[str] | None, Option(help="One of the methods; default: all.")] = None,
    order: Annotated[list[str] | None, Option(help="One of the orders; default: all.")] = None,
    number: Annotated[list[int] | None, Option(help="Of cells adapted to; default: all.")] = None,
) -> None:
    """Adapt a network to 5 to 200 unlabelled cells of each target, and test it on others.

    Reads a network of the repository, or a run's checkpoint, and the prepared images. Writes what
    is missing of results/PROFILE/unlabelled_cells/, from which the report draws.
    """
    from benchmark.evaluation.unlabelled_cells import METHODS, NONE, NUMBERS, ORDERS
    from benchmark.laboratory.unlabelled_cells import Asked, adapt_to_cells

    for option, named, known in (
        ("method", method, [name for name in METHODS if name != NONE]),
        ("order", order, list(ORDERS)),
        ("number", number, list(NUMBERS)),
    ):
        for value in named or []:
            if value not in known:
                raise UserError(f"--{option} {value}: use one of {', '.join(map(str, known))}")
    chosen = chosen_network(context, network, run, profile, tta=False)
    asked = Asked(draws, method or (), order or (), number or ())
    say(f"wrote {adapt_to_cells(ROOT, chosen, asked)}")


@command(RESULTS, "embed-all")
def embed_every_image(
    network: Annotated[
        str,
        Argument(
            autocompletion=complete_run_or_network,
            help="BACKBONE, BACKBONE@WEIGHTS, `wbc-shift networks`, or METHOD/SCENARIO/seedK.",
        ),
    ],
    out: Annotated[Path, Option(help="The parquet file to write.")],
    profile: ProfileOption = DEFAULT_PROFILE,
) -> None:
    """Write a network's features of every cell of a profile, for `score --features`.

    WEIGHTS is a block of `weights` in params.yaml, a tag of timm's hub, or a file; without it they
    are random. The features are those that enter the classifier.

    Reads the prepared images, and the weights. Writes the file.
    """
    from benchmark.evaluation.feature_files import cells_of
    from benchmark.laboratory.embed_all import embed_all

    params, cards = settings()
    cells = cells_of(ROOT, params, cards, profile)
    number, width = embed_all(ROOT, params, cells, profile, network, out)
    say(f"wrote {out}: {width} features of {number} cells: score it with "
        f"`wbc-shift score --features {out} -p {profile}`")  # fmt: skip


@domain_command("add")
def domain_add(
    folder: LabelledFolder,
    name: Annotated[str, Option(help="What the domain is to be called.")],
    labels: LabelsOption = None,
    crop: CropOption = None,
    told: MapOption = None,
    profile: ProfileOption = DEFAULT_PROFILE,
) -> None:
    """Make a folder of labelled images a target of every `source->*` scenario.

    Reads the folder, which stays as it is: broken images are left out, and of copies one stays; of
    fields, every cell with a box is cut out.
    Writes copies to datasets/raw/NAME, which git ignores, and datasets/NAME.yaml, params.yaml and
    the profiles' dvc.yaml.
    """
    from benchmark.laboratory.add import add_domain

    say_each(add_domain(ROOT, profile, folder, name, labels, crop, cell_types_told(told)))
    if name in settings()[0].profile(profile).sources():
        say(f"note: scenarios `*->…` now train on {name} too: run `wbc-shift split` first")


@domain_command("update")
def domain_update(
    name: Annotated[str, Argument(help="A domain that `domain add` made.")],
    folder: LabelledFolder,
    labels: LabelsOption = None,
    crop: Annotated[
        float | None, Option(min=0.05, max=1.0, help="As in `domain add`; default: as it is.")
    ] = None,
    told: MapOption = None,
    profile: ProfileOption = DEFAULT_PROFILE,
) -> None:
    """Replace the images of a domain of your own by those of a folder.

    Reads the folder, which stays as it is, and the profile's images at hand, to find copies. Writes
    what `domain add` writes; the domain stays in the profiles that have it.
    """
    from benchmark.laboratory.add import add_domain

    told_of = cell_types_told(told)
    say_each(add_domain(ROOT, profile, folder, name, labels, crop, told_of, update=True))


@domain_command("remove")
def domain_remove(
    name: Annotated[str, Argument(help="A domain that `domain add` made.")],
) -> None:
    """Remove a domain of your own: the copied images, the card, its place in every profile.

    Reads the cards. Writes params.yaml and the profiles' dvc.yaml, and deletes what `domain add`
    made; published sets are never removed.
    """
    from benchmark.laboratory.add import remove_domain

    say_each(remove_domain(ROOT, name))


@domain_command("cards")
def domain_cards(
    profile: ProfileOption = DEFAULT_PROFILE,
    run: Annotated[
        str | None, Option(help="Also compare in the features of this finished run.")
    ] = None,
    weights: Annotated[
        tuple[str, Path] | None,
        Option(help="Also compare in a backbone's features: its name, and a weights file."),
    ] = None,
) -> None:
    """Draw a card per domain: montage, classes, colour, size of the nucleus; and distances.

    Reads the prepared images. Writes results/<profile>/domains/.
    """
    from benchmark.domains.cards import write_domain_cards
    from benchmark.domains.frozen_features import features_of_run, features_of_weights

    if run is not None and weights is not None:
        raise UserError("domain cards: give --run or --weights, not both")
    params, cards = settings()
    chosen = params.profile(profile)
    features = None
    if run is not None:
        features = features_of_run(ROOT, profile, run, classes_of(profile))
    elif weights is not None:
        features = features_of_weights(*weights, chosen.image_size)
    write_domain_cards(ROOT, params, cards, profile, features)


@domain_command("alarm")
def domain_alarm(profile: ProfileOption = DEFAULT_PROFILE) -> None:
    """Compute how many cells of another laboratory `predict` needs to see that it is one.

    Reads the prepared images, or what was kept of them; and results/<profile>/ranges.json. Writes
    appearance.parquet, alarm.csv with its figure, and alarm_slides.csv, the same of a range of
    slides, below results/<profile>/domains/.
    """
    from benchmark.domains.alarm import write_alarm

    params, cards = settings()
    write_alarm(ROOT, params, cards, profile)


@command(LABORATORY, "test")
def certify(
    context: typer.Context,
    folder: LabelledFolder,
    name: Annotated[str, Option(help="What is tested, as the certificate is to call it.")],
    network: NetworkOption = None,
    run: RunOption = None,
    profile: ProfileOption = DEFAULT_PROFILE,
    labels: LabelsOption = None,
    crop: Annotated[
        float | None,
        Option(
            min=0.05,
            max=1.0,
            help="Part of the image's side that is one cell; by default by the size of nuclei.",
        ),
    ] = None,
    told: MapOption = None,
    level: Annotated[
        float, Option(min=0.5, max=0.999, help="Sensitivity that every class is to reach.")
    ] = 0.9,
    out: Annotated[
        Path | None, Option(help="Folder to write; by default NAME, in the current folder.")
    ] = None,
    with_file_names: Annotated[
        bool, Option("--with-file-names", help="Name the images that were misclassified.")
    ] = False,
) -> None:
    """Test a network on your own labelled images: a certificate on one page.

    Nothing is trained. Images, labels and cell types are read as in `domain add`; the certificate
    states what that many images can show, and how many more would settle the rest.

    Reads the folder, which stays as it is, and the network with its predictions. Writes NAME/:
    certificate.html, .pdf (where a browser is installed) and .json, and predictions.csv, audit.csv
    and crop.html, which name or show the images.
    """
    from benchmark.laboratory import site_test
    from benchmark.laboratory.networks import Network
    from benchmark.laboratory.shipped import shipped_names

    site_test.folder_to_write(name, out)  # said before networks are read
    first = chosen_network(context, network, run, profile, tta=False)
    others = [] if run is not None else [own for own in shipped_names(ROOT) if own != first.name]
    networks = [first, *(Network.shipped(ROOT, own) for own in others)]
    asked = (labels, crop, cell_types_told(told), level, out, with_file_names)
    say_each(site_test.certify(ROOT, folder, name, networks, __version__, *asked))


@network_commands.callback(invoke_without_command=True)
def networks(
    context: typer.Context,
    check: Annotated[
        bool,
        Option("--check", help="Compute the cards' numbers again; exit 1 if one differs."),
    ] = False,
) -> None:
    """List the trained networks that come with the repository, or check them.

    Reads results/networks/; with --check also the prepared images of their profiles, where they are
    here. Writes nothing.
    """
    if context.invoked_subcommand is not None:
        return
    from benchmark.laboratory.model_card import percent, recommended, scores_of
    from benchmark.laboratory.shipped import all_shipped, networks_folder
    from benchmark.laboratory.shipping import check as check_network

    there = all_shipped(ROOT)
    if not there:
        raise UserError(
            f"{networks_folder(ROOT)} holds no network: `wbc-shift networks add RUN_ID -p PROFILE "
            "--name NAME` makes one from a finished run"
        )
    if check:
        broken = 0
        for shipped in there:
            for sound, line in check_network(ROOT, shipped):
                say(line if sound else f"broken: {line}")
                broken += not sound
        if broken:
            raise UserError(f"{broken} of the networks' checks failed, listed above")
        return
    scores = [scores_of(shipped) for shipped in there]
    best = recommended(there)
    table = Table(title="macro-F1 in % [95 % interval over other test images]")
    for column in ("network", "source", "method"):
        table.add_column(column, overflow="fold")
    for column in ("MB", "home", "mean of targets", "worst target"):
        table.add_column(column, justify="right")
    for shipped, own in zip(there, scores, strict=True):
        record = shipped.record
        name = f"{record.name} *" if shipped is best else record.name
        about = (name, record.run.scenario.source, record.run.method.name)
        numbers = (own.home.macro_f1, own.mean, own.worst)
        table.add_row(*about, f"{shipped.bytes / 1e6:.1f}", *map(percent, numbers))
    console.print(table)
    say("* recommended: the highest mean over the targets on which all of them can be compared")


@network_commands.command("add", cls=InProject)
def networks_add(
    run: Annotated[
        str,
        Argument(autocompletion=complete_run, help="A finished run: METHOD/SCENARIO/seedK."),
    ],
    name: Annotated[str, Option(help="What the network is to be called.")],
    profile: ProfileOption = DEFAULT_PROFILE,
) -> None:
    """Put the network of a finished run into the repository: at most three, of 10 MB each.

    Reads its checkpoint and the prepared images. Writes results/networks/NAME: the network in half
    precision, what it predicts of the run's test sets, and its model card.
    """
    from benchmark.laboratory.shipping import add_network

    space = settings()[0].profile(profile).label_space
    shipped = add_network(ROOT, profile, run, name, classes_of(profile), space)
    say(f"wrote {shipped.folder}: {shipped.bytes / 1e6:.1f} MB")


@network_commands.command("renew", cls=InProject)
def networks_renew(profile: ProfileOption = DEFAULT_PROFILE) -> None:
    """Replace the repository's networks where a profile's study has better ones, by the rule.

    For each source the inductive method of one network with the highest mean macro-F1 over the
    targets, of its seeds that with the highest score on id_val; and one plain network beside them.

    Reads predictions, checkpoints and the prepared images. Writes results/networks/.
    """
    from benchmark.laboratory.shipping import renew

    results_of(profile)
    space = settings()[0].profile(profile).label_space
    say_each(renew(ROOT, profile, classes_of(profile), space))


@command(LABORATORY)
def predict(
    context: typer.Context,
    folder: Annotated[
        Path, Argument(help="Images of one cell each, or fields with boxes (VOC, YOLO, COCO).")
    ],
    network: NetworkOption = None,
    run: RunOption = None,
    profile: ProfileOption = DEFAULT_PROFILE,
    out: Annotated[
        Path, Option(help="The CSV to write; a sheet of the images goes beside it.")
    ] = Path("predictions.csv"),
    crop: CropOption = None,
    boxes: Annotated[
        Path | None,
        Option(help="CSV of where cells lie in fields: path, x, y, width, height, in pixels."),
    ] = None,
    adapt: Annotated[
        str | None,
        Option(
            autocompletion=complete_adaptation,
            help="batch or colour: adapt to the folder's images first; nothing is accepted then.",
        ),
    ] = None,
    tta: Annotated[
        bool, Option(help="Average over 8 flips and turns; requires the source images.")
    ] = False,
    accuracy: AccuracyOption = 0.95,
) -> None:
    """Label images with a trained network: label, confidence, and whether to accept it.

    Images unlike those that the network was trained on (other colours, other sizes, whole fields)
    are never accepted; the column `reason` says why.

    Thresholds hold for the laboratory that the network was trained in, and for no other.

    Reads the folder, and a network of the repository or a run's checkpoint and predictions. Writes
    the CSV and, beside it, an HTML page that shows the images.
    """
    from benchmark.laboratory.adaptation import ADAPTATIONS
    from benchmark.laboratory.label_images import differential, label_folder

    if out.suffix != ".csv":
        raise UserError(f"--out {out}: name a .csv file")
    if adapt is not None and adapt not in ADAPTATIONS:
        raise UserError(f"--adapt {adapt}: use {' or '.join(ADAPTATIONS)}")
    chosen = chosen_network(context, network, run, profile, tta)
    asked = (crop, accuracy, adapt, boxes)
    (table, gauge, notes), sheet = label_folder(ROOT, chosen, folder, out, *asked)
    say(f"network {chosen.name}, trained on {chosen.source}")
    for flag, number in table["flag"].value_counts().items():
        say(f"{number} {flag}")
    if (labelled := table.loc[table["label"] != "", "label"]).any():
        say(differential(labelled, chosen.classes))
    unlike = table["reason"].str.contains("unlike", regex=False).sum()
    if unlike and not adapt:
        say(
            f"note: {unlike} of {len(table)} images are unlike {gauge.source}'s own and are not "
            "accepted, however confident the prediction: see the column reason"
        )
    say_each(line if line.startswith("warning") else f"note: {line}" for line in notes)
    say(f"{gauge}")
    say(gauge.scaling)
    say(f"wrote {out} and {sheet}; they name and show the images: keep them out of git")


@command(LABORATORY)
def export(
    context: typer.Context,
    network: Annotated[
        str,
        Argument(
            autocompletion=complete_run_or_network,
            help="One of `wbc-shift networks`, or a finished run: METHOD/SCENARIO/seedK.",
        ),
    ],
    onnx: Annotated[Path, Option(help="The file to write; a JSON goes beside it.")],
    profile: ProfileOption = DEFAULT_PROFILE,
    accuracy: AccuracyOption = 0.95,
) -> None:
    """Write a network as ONNX, with its preprocessing in the graph, and try it with onnxruntime.

    The JSON says what is left to do before and after it: crop, classes, temperature, threshold.
    Requires the extra `export`.

    Reads a network of the repository, or a run's checkpoint and predictions. Writes the two files.
    """
    from benchmark.laboratory.export import export as export_network

    named = (None, network) if "/" in network else (network, None)
    say_each(export_network(chosen_network(context, *named, profile, False), onnx, accuracy))


def chosen_network(
    context: typer.Context, name: str | None, run: str | None, profile: str, tta: bool
) -> Network:
    """A network of the repository, the recommended one if none is named, or that of a run.

    Raises:
        UserError: both are named, or a --profile that would do nothing, for want of a run of it.
    """
    from benchmark.laboratory.model_card import recommended
    from benchmark.laboratory.networks import Network
    from benchmark.laboratory.shipped import all_shipped

    if name is not None and run is not None:
        raise UserError("give --network or --run, not both")
    if run is None and context.get_parameter_source("profile").name == "COMMANDLINE":
        raise UserError(
            f"--profile {profile} is of runs, and no run is named: name one, "
            "METHOD/SCENARIO/seedK, or leave the profile out"
        )
    if run is not None:
        return Network.of_run(ROOT, profile, run, classes_of(profile), tta)
    if name is None:
        best = recommended(all_shipped(ROOT))
        if best is None:
            raise UserError(
                "results/networks holds no network: name a finished run with --run and --profile"
            )
        name = best.record.name
    return Network.shipped(ROOT, name, tta)
