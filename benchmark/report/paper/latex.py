"""LaTeX of the paper: macros, captions, the table of data, and the settings of the supplement."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from benchmark.evaluation.experiments import Experiment
from benchmark.parts import AXES, BLOCKS, PARTS
from benchmark.report.facts import DataCard
from benchmark.report.write import label
from benchmark.texts import latex

GRID = ("scenarios", *(PARTS[axis].plural for axis in AXES), "methods", "seeds")
"""Keys of an experiment that span its runs."""


def tex(text: str) -> str:
    """Any text for LaTeX; long names may break behind an underscore and the like.

    Letters and signs beyond those of LaTeX are declared in `preamble.tex`.
    """
    escaped = latex(text)
    escaped = re.sub(r"(\\_|(?<=\w)[+/](?=[a-z]))", r"\1\\allowbreak{}", escaped)
    escaped = re.sub(r"([0-9a-f]{16})(?=[0-9a-f]{16})", r"\1\\allowbreak{}", escaped)  # digests
    return escaped.replace(" \\%", "\\,\\%")


def macros(values: dict[str, str]) -> str:
    """One `\\newcommand` per value; LaTeX requires names of letters only."""
    lines = ["% Written by `wbc-shift paper`: change nothing here."]
    for name, value in values.items():
        if not name.isalpha():
            raise ValueError(f"{name} is no name for a LaTeX macro")
        lines.append(f"\\newcommand{{\\{name}}}{{{tex(value)}\\xspace}}")
    return "\n".join(lines) + "\n"


def joined(words: Iterable[str]) -> str:
    """`a, b and c`."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def figure(name: str, caption: str) -> str:
    """A figure over both columns, in the size it was drawn if there is room."""
    return (
        "\\begin{figure*}\n\\centering\n"
        f"\\fitted{{generated/figures/{name}.pdf}}\n"
        f"\\caption{{{tex(caption)}}}\n\\label{{fig:{label(name)}}}\n\\end{{figure*}}\n"
    )


def data_table(data: dict[str, Any], cards: list[DataCard], classes: tuple[str, ...]) -> str:
    """Domains with their set, licence and number of images of each class."""
    sets = {domain: used.card for used in cards for domain in used.domains}
    lines = [
        "\\begin{table*}",
        "\\centering",
        "\\caption{Domains: the set that each is taken from, its licence, and its images by class, "
        "all parts together, after the audit's exclusions. Crop: side of the centred square that "
        "was kept, as a fraction of the shorter side.}",
        "\\label{tab:data}",
        "\\vspace{4pt}\\footnotesize",
        "\\begin{tabular}{@{}lp{0.17\\linewidth}p{0.13\\linewidth}rr" + "r" * len(classes) + "@{}}",
        "\\toprule",
        " & ".join(["Domain", "Set", "Licence", "Crop", "Images", *map(tex, classes)]) + " \\\\",
        "\\midrule",
    ]
    for domain, facts in data["domains"].items():
        card = sets.get(domain)
        name, licence = facts["dataset"], "unknown"
        source = tex(name)
        if card is not None:
            source, licence = f"{tex(card.title)} \\citep{{{card.citation.key}}}", card.licence.name
        counts = [str(facts["classes"].get(label, 0)) for label in classes]
        row = [tex(domain), f"\\raggedright {source}", f"\\raggedright {tex(licence)}"]
        row += [tex(str(facts["crop"])), str(facts["images"]), *counts]
        lines.append(" & ".join(row) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table*}"]) + "\n"


def appendix(settings: dict[str, Any], profile: str, experiments: list[Experiment]) -> str:
    """What `params.yaml` says about a profile: training, grids, and the blocks they use."""
    chosen = settings["profiles"][profile]
    plain = {key: value for key, value in chosen.items() if key != "experiments"}
    parts = [
        "\\subsection{Settings of all runs}",
        description({**flat({"split": settings["split"]}), **flat(plain)}),
        "\\subsection{Experiments}",
    ]
    counts = {e.experiment: (e.found, len(e.runs)) for e in experiments}
    words = set()
    for name, experiment in chosen["experiments"].items():
        grid = {key: experiment[key] for key in GRID if key in experiment}
        rest = {k: v for k, v in experiment.items() if k not in grid and k != "title"}
        found, planned = counts.get(name, (0, 0))
        shown = {**flat(grid), **flat(rest), "runs": f"found {found} of {planned} planned"}
        parts += [f"\\paragraph{{{tex(experiment['title'])}}}", description(shown)]
        words |= {str(one) for value in grid.values() if isinstance(value, list) for one in value}
    # A named method names blocks in its turn.
    named = settings.get("methods") or {}
    for method in (named[word] for word in sorted(words) if word in named):
        words |= {str(value) for value in method.values() if not isinstance(value, (dict, list))}
    parts.append("\\subsection{Building blocks}")
    for kind in (*BLOCKS.values(), "methods"):
        used = {k: v for k, v in (settings.get(kind) or {}).items() if k in words}
        if used:
            shown = {name: inline(value) for name, value in used.items()}
            parts += [f"\\paragraph{{{tex(kind.title())}}}", description(shown)]
    return "\n\n".join(parts) + "\n"


def flat(value: dict[str, Any], before: str = "") -> dict[str, str]:
    """Nested settings as dotted keys."""
    found: dict[str, str] = {}
    for key, one in value.items():
        if isinstance(one, dict):
            found |= flat(one, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = inline(one)
    return found


def inline(value: Any) -> str:
    """A setting on one line, in words rather than in YAML."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {inline(one)}" for key, one in value.items()) or "no parameter"
    if isinstance(value, list):
        return ", ".join(map(inline, value))
    if value is None:
        return "as the profile"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def description(values: dict[str, str]) -> str:
    items = "\n".join(f"\\item[{{{tex(name)}}}] {tex(value)}" for name, value in values.items())
    return f"\\begin{{settings}}\n{items}\n\\end{{settings}}"
