"""Tables of the paper alone: scores of a selection of methods, adaptation, claims, study two.

They hold what a printed page has room for; the supplement and `tables/` have the rest.
"""

from __future__ import annotations

from benchmark.evaluation.compare import p_text
from benchmark.evaluation.scores import MAJORITY
from benchmark.report.claims import (
    CLAIMS,
    NOT_RUN,
    Measurement,
    measurements,
    signed,
    verdict,
)
from benchmark.report.paper.latex import tex
from benchmark.report.paper.readings import Readings
from benchmark.report.paper.words import ADAPTED, METHODS, SOURCES
from benchmark.report.results import Results
from benchmark.report.table import Cell
from benchmark.report.write import NOTHING, cell_text, number

COLUMNS = {"in_domain": "at home", "mean_target": "mean elsewhere", "worst_target": "worst"}
CALLED = {
    "raabin->corruptions": "corruptions",
    "raabin+pbc-main->bccd,jtsc,cellavision": "both",
}
"""What the table of claims calls further scenarios."""
CITED = {
    "tsutsui2023": "tsutsui2023benchmarking",
    "le2026": "le2026",
    "he2023": "he2023",
    "ma2020": "ma2020",
    "umer2023": "umer2023",
}
"""Source of a claim → its key in the bibliography."""


def table(name: str, caption: str, columns: str, lines: list[str], wide: bool) -> str:
    """A booktabs table, shrunk if it is wider than its place.

    Args:
        wide: over both columns of the page.
    """
    kind = "table*" if wide else "table"
    return "\n".join(
        [
            f"\\begin{{{kind}}}",
            "\\centering",
            f"\\caption{{{caption}}}",
            f"\\label{{tab:{name}}}",
            "\\vspace{3pt}\\footnotesize\\setlength{\\tabcolsep}{3pt}\\sbox0{%",
            f"\\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
            "\\toprule",
            *lines,
            "\\bottomrule",
            "\\end{tabular}}",
            "\\ifdim\\wd0>\\linewidth\\resizebox{\\linewidth}{!}{\\usebox0}\\else\\usebox0\\fi",
            f"\\end{{{kind}}}\n",
        ]
    )


def line(*cells: str) -> str:
    return " & ".join(cells) + " \\\\"


def printed(cell: Cell, bold: bool = False) -> str:
    """`31.6 & [29.4, 35.0]`: two columns, so that means stand below each other."""
    text = cell_text(cell)
    mean, _, interval = text.partition(" ")
    mean = f"\\textbf{{{tex(mean)}}}" if bold else tex(mean)
    return f"{mean} & {{\\scriptsize {tex(interval)}}}"


def scores_table(readings: Readings) -> str:
    """A row per method of print that was run, with its scores from each source side by side."""
    scenarios = [name for name in SOURCES if name in readings.scenarios]
    cells: dict[tuple[str, str, str], Cell] = {
        (scenario, method, column): readings.score(scenario, method, column)
        for scenario in scenarios
        for own in METHODS.values()
        for method in own
        if readings.has(scenario, method)
        for column in COLUMNS
    }
    highest = {
        (scenario, column): max(
            (cell.mean for (s, _, c), cell in cells.items() if (s, c) == (scenario, column)),
            default=0.0,
        )
        for scenario in scenarios
        for column in COLUMNS
    }
    head = [f"\\multicolumn{{6}}{{c}}{{trained on {SOURCES[name]}}}" for name in scenarios]
    words = [f"\\multicolumn{{2}}{{c}}{{{text}}}" for text in COLUMNS.values()] * len(scenarios)
    lines = [line("", *head)]
    lines += [f"\\cmidrule(lr){{{2 + 6 * i}-{7 + 6 * i}}}" for i in range(len(scenarios))]
    lines += [line("method", *words), "\\midrule"]
    for group, own in METHODS.items():
        present = [m for m in own if any(readings.has(name, m) for name in scenarios)]
        if not present:
            continue
        lines.append(line(f"\\emph{{{tex(group)}}}", *["&"] * (3 * len(scenarios))))
        for method in present:
            row = []
            for scenario in scenarios:
                for column in COLUMNS:
                    cell = cells.get((scenario, method, column))
                    if cell is None:
                        row.append(f"\\multicolumn{{2}}{{c}}{{{NOTHING}}}")
                        continue
                    row.append(printed(cell, cell.mean == highest[scenario, column]))
            lines.append(line(f"\\quad {tex(own[method])}", *row))
    constants = [
        f"{tex(number(readings.score(scenario, MAJORITY, column).mean))} &"
        for scenario in scenarios
        for column in COLUMNS
    ]
    lines += ["\\addlinespace[2pt]", line("\\emph{Constant answer}", *constants)]
    caption = (
        "Macro-F1 in per cent, mean over seeds and 95\\,\\% interval over other seeds and other "
        "test images, of networks that never saw a target. At home: the held-out part of the "
        "source. Elsewhere: mean over the other domains, and the worst of them. Bold: the highest "
        "mean of its column; which others are not shown to be worse is in the supplement. "
        "Constant answer: the most frequent class of each test set for every cell, an oracle and "
        f"no method. {NOTHING}: not run."
    )
    columns = "l" + "r@{\\,}l" * 3 * len(scenarios)
    return table("scores", caption, columns, lines, wide=True)


def adaptation_table(readings: Readings) -> str:
    """What seeing a target's unlabelled images changes; nothing where it was not run."""
    lines = [
        line("", "\\multicolumn{2}{c}{mean elsewhere}", "\\multicolumn{2}{c}{change}", "$p$"),
        "\\midrule",
    ]
    found = False
    for scenario, source in SOURCES.items():
        own = [method for method in ADAPTED if readings.has(scenario, method)]
        plain = {m: m.rsplit("-", 1)[0] for m in own}
        if not own:
            continue
        lines += ["\\addlinespace[2pt]"] * found
        lines.append(line(f"\\emph{{trained on {source}}}", "", "", "", "", ""))
        found = True
        for method in own:
            row = readings.difference(scenario, method, plain[method], "mean_target")
            change, _, interval = signed(row).partition(" ")
            p = p_text(row["p_holm"]).removeprefix("p ").removeprefix("= ")
            score = printed(readings.score(scenario, method, "mean_target"))
            own_change = f"{tex(change)} & {{\\scriptsize {tex(interval)}}}"
            lines.append(line(f"\\quad {ADAPTED[method]}", score, own_change, tex(p)))
    caption = (
        "Adaptation of the plain network to the unlabelled images of each target: macro-F1 in per "
        "cent, its change in points with 95\\,\\% intervals, each of its change alone, and $p$ "
        f"corrected for all {readings.results.compared} single-part ablations. These methods "
        "have seen what they are tested on."
    )
    if not found:
        return ""
    return table("adaptation", caption, "lr@{\\,}lr@{\\,}lr", lines, wide=False)


def shortly(found: list[Measurement]) -> str:
    """Where a claim was measured and with what outcome, source by source."""
    parts = []
    for scenario in dict.fromkeys(one.scenario for one in found):
        own = [one for one in found if one.scenario == scenario]
        texts = [
            f"{one.short} ({one.method})" if one.method and len(own) > 1 else one.short
            for one in own
        ]
        where = SOURCES.get(scenario) or (scenario and CALLED.get(scenario, scenario))
        parts.append(tex(f"{where}: " * bool(where) + ", ".join(texts)))
    return "; ".join(parts)


def claims_table(results: Results) -> str:
    """Claim, what was published, what was found here, and the verdict."""
    found = measurements(results)
    head = line("claim", "published", "ours (macro-F1 elsewhere, points, unless said)", "verdict")
    lines = [head, "\\midrule"]
    for claim in CLAIMS:
        cited = CITED.get(claim.source)
        source = f" \\citep{{{cited}}}" if cited else ""
        ours = shortly(found[claim.text]) or NOT_RUN
        cells = (f"{tex(claim.text)}{source}", tex(claim.published), ours)
        lines.append(line(*cells, tex(verdict(found[claim.text]))))
    widths = (0.25, 0.2, 0.41, 0.1)
    columns = "".join(
        f">{{\\raggedright\\arraybackslash}}p{{{width}\\linewidth}}" for width in widths
    )
    caption = (
        "Claims checked. Ours: differences to the same network without the part, with 95\\,\\% "
        "intervals over other seeds and test images, each of its difference alone. Verdict: by $p$ "
        f"corrected for all {results.compared} single-part ablations, on the mean of targets; "
        "not shown: neither the claim nor its opposite; untested: what carries no "
        "interval. What each comparison leaves open is in the supplement."
    )
    text = table("claims-in-print", caption, columns, lines, wide=True)
    return text.replace("\\footnotesize", "\\scriptsize")
