"""Cells of a new laboratory: what unlabelled and labelled ones buy, as two small tables and a
sentence or two beside each; nothing of what was not tried."""

from __future__ import annotations

import math

import numpy as np

from benchmark.evaluation.features import (
    FeatureSet,
    budget_scores,
    common_neighbours,
    robustness_at,
)
from benchmark.evaluation.robustness import DRAWS
from benchmark.evaluation.unlabelled_cells import MARGIN
from benchmark.report.features import ordered
from benchmark.report.paper.latex import joined, tex
from benchmark.report.paper.tables import line, table
from benchmark.report.paper.words import SOURCES
from benchmark.report.results import Results
from benchmark.report.unlabelled_cells import adapted_scores, by_target, network_name
from benchmark.report.write import NOTHING, number, signed_number

FEATURES = {
    "squeezenet-imagenet": "SqueezeNet from ImageNet",
    "lite0-imagenet": "EfficientNet-Lite0 from ImageNet",
    "squeezenet-random": "SqueezeNet at random",
    "colour-histogram": "colours alone",
}
"""What sets of features are called in print, where not by their own name."""
NETWORKS = {"resnet10t-bn-ce-small": "plain ResNet-10"}
ADAPTED = {"adabn": "AdaBN", "adabn_half": "half-mixed"}
"""Methods of the table of unlabelled cells."""
MOST_NUMBERS = 3
"""Numbers of unlabelled cells that a column of print has room for."""


def unlabelled_cells(results: Results) -> list[str]:
    """AdaBN by the number of unlabelled cells drawn at random, a row per network and method."""
    scores = adapted_scores(results)
    if scores is None:
        return []
    asked = (scores["order"] == "random") & ~scores["at_home"] & scores["method"].isin(ADAPTED)
    means = by_target(scores[asked])
    # A mean over fewer targets than a network has would be of other laboratories.
    counts = means.groupby(["source", "network", "method", "number"])["target"].nunique()
    counts = counts.unstack("number")
    complete = counts.eq(counts.max(axis=1), axis=0).all()
    numbers = list(complete.index[complete])
    if not numbers:
        return []
    if len(numbers) > MOST_NUMBERS:  # the fewest, the most, and what lies between
        numbers = [numbers[at] for at in np.linspace(0, len(numbers) - 1, MOST_NUMBERS).astype(int)]
    targets = f"{int(counts.max().max())}"
    means = means[means["number"].isin(numbers)]
    lines, told, lost = [], [], False
    for (source, network, method), own in means.groupby(
        ["source", "network", "method"], sort=False
    ):
        gains = 100 * own.groupby("number")["gain"].mean()
        name = network_name(network).partition(", ")[0].removesuffix(f"-{source}")
        name = f"{NETWORKS.get(name, name)} from {SOURCES.get(f'{source}->*', source)}"
        lines.append(
            line(
                f"{tex(name)}, {ADAPTED[method]}",
                str(own["draws"].max()),
                *(tex(signed_number(gains[n])) for n in numbers),
                tex(number(100 * own["collapsed"].mean())),
            )
        )
        if method == "adabn":
            changes = joined(tex(signed_number(gains[n])) for n in numbers)
            told.append(f"{changes} for {tex(name)}")
            lost |= bool((gains < 0).any())
    text = (
        "How many unlabelled cells does AdaBN need? Fitted on "
        f"{joined(map(str, numbers))} cells drawn at random, it changes the mean of {targets} "
        "targets of single networks, in points and in this order, by "
        f"{'; by '.join(told)} (Table~\\ref{{tab:unlabelled}})."
    )
    if lost:
        text += " It can take points as well as add them, and nothing here tells beforehand where."
    caption = (
        f"Unlabelled cells of a target, drawn at random: points of macro-F1 gained on {targets} "
        "targets over the same network without adaptation, on other cells. Draws: most of any "
        f"target. Collapsed: per cent of the draws that lose more than {100 * MARGIN:g} points. "
        "One network in each row, and no intervals, since the draws share a target's cells."
    )
    head = line("network and method", "draws", *(f"{n} cells" for n in numbers), "collapsed")
    columns = "l" + "r" * (len(numbers) + 2)
    made = table("unlabelled", caption, columns, [head, "\\midrule", *lines], wide=False)
    return [f"{text}\n", made]


def frozen_features(results: Results) -> list[str]:
    """Robustness index of frozen features, and what labelled cells of a target buy."""
    sets = results.feature_sets
    if not sets:
        return []
    values = {score[:4]: score.value for score in results.feature_scores}
    scenario = sets[0].record.scenarios[0]
    source = SOURCES.get(scenario.name, scenario.source)
    k = common_neighbours(sets)
    sets = ordered(sets, values, scenario.name)
    bought = {own.record.name: labelled_means(own, scenario.source) for own in sets}
    # Numbers of cells that every target has, so that all columns are of the same laboratories.
    budgets = sorted(set.intersection(*(set(own) for own in bought.values())) - {0})
    called = {own.record.name: FEATURES.get(own.record.name, own.record.name) for own in sets}
    index = {own.record.name: number(robustness_at(own, k)[0], 2) for own in sets}
    lines = []
    for own in sets:
        name, laboratory = own.record.name, own.record.laboratory_told
        shown = [NOTHING if laboratory is None else number(100 * laboratory)]
        shown += [number(bought[name].get(b, math.nan)) for b in (0, *budgets)]
        lines.append(line(*map(tex, (called[name], index[name], *shown))))
    told = [100 * own.record.laboratory_told for own in sets if own.record.laboratory_told]
    text = (
        "Features can also be frozen, and read out by one logistic regression "
        "(Table~\\ref{tab:frozen}). Their robustness index \\citep{komen2026pathorob} is the share "
        "of neighbours with a cell's class among those that share either its class or its "
        "laboratory, so that 0.5 favours neither: "
        f"{tex(joined(f'{index[name]} for {called[name]}' for name in called))}. "
    )
    if told:
        text += (
            "A linear classifier tells two laboratories apart from any of them, with an accuracy "
            f"of {number(min(told))} to {number(max(told))}\\,\\%. "
        )
    if budgets:
        last = budgets[-1]
        gains = (
            f"with {tex(called[name])} {number(bought[name][0])} and {number(bought[name][last])}"
            for name in (next(iter(called)), list(called)[-1])
        )
        text += (
            f"A regression on the cells of {source} and one on {last} labelled cells of each class "
            "of the target alone have, as the mean of targets on the same cells, "
            f"{'; '.join(gains)}\\,\\%. "
        )
    text += (
        "Not shown: other seeds of these networks, larger pre-trained ones, and whether any two "
        "rows differ.\n"
    )
    caption = (
        "Frozen features under logistic regression, macro-F1 in per cent, mean over targets and "
        f"{DRAWS} draws. None: fitted on {source}; then on so many labelled cells of each class of "
        f"the target alone, tested on the same half of it. Index: robustness index ({k} "
        f"nearest neighbour{'' if k == 1 else 's'}). Laboratory: accuracy of telling two apart, in "
        "per cent. No intervals, since the draws share a target's cells."
    )
    head = line("features", "index", "laboratory", "none", *(f"{b} a class" for b in budgets))
    columns = "l" + "r" * (len(budgets) + 3)
    made = table("frozen", caption, columns, [head, "\\midrule", *lines], wide=False)
    return [text, made]


def labelled_means(own: FeatureSet, source: str) -> dict[int, float]:
    """Labelled cells of each class → per cent, mean over draws and then over targets; 0 is the
    regression of the source. Numbers that a target lacks are left out."""
    frame = budget_scores(own)
    frame = frame[(frame["method"] == "logistic") & frame["source"].isin(["", source])]
    frame = frame[frame["target"] != source]
    means = frame.groupby(["per_class", "target"])["macro_f1"].mean().unstack()
    return (100 * means.dropna().mean(axis=1)).to_dict()
