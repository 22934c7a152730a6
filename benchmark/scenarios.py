"""Scenarios: which domains are trained on and which are tested on, as one name says."""

from __future__ import annotations

from benchmark.errors import UserError, suggest
from benchmark.parts import registry
from benchmark.texts import shortened

OURS, MEDMNIST = CORRUPTIONS_OF_SOURCE = ("corruptions", "corruptions_medmnist")
"""Stand for the targets of a scenario: the source's id_test under every corruption of a family."""


def expand_scenario(name: str, domains: list[str]) -> tuple[str, list[str]]:
    """Source and targets of a scenario.

    `source->*` tests on every other domain of the profile, in its order; `source->a,b` on these;
    `source->corruptions` on the source's id_test under every corruption and severity, as derived
    domains `source:corruption:severity`; `source->corruptions_medmnist` under those of
    BloodMNIST-C. `a+b->c` trains on several domains, `*->c` on all others
    (leave one domain out); their source is `a+b`.
    """
    source, arrow, targets = name.partition("->")
    where = f"scenario '{shortened(name)}'"
    if not arrow or not targets:
        raise UserError(f"{where}: write 'source->*' or 'source->target,target'")
    if "*" in (source, targets) and source == targets:
        raise UserError(f"{where}: name the source or the target")
    chosen = [] if targets in ("*", *CORRUPTIONS_OF_SOURCE) else targets.split(",")
    sources = [d for d in domains if d not in chosen] if source == "*" else sources_of(source)
    for domain in (*sources, *chosen):
        if domain not in domains:
            raise UserError(f"{where}: no domain '{shortened(domain)}'{suggest(domain, domains)}")
    if targets in CORRUPTIONS_OF_SOURCE:
        if len(sources) > 1:
            raise UserError(f"{where}: corruptions are of one source, not of several")
        family = {n: c for n, c in registry("corruption").items() if c.family == targets}
        return source, [f"{source}:{n}:{s}" for n, c in family.items() for s in c.severities]
    chosen = chosen or [d for d in domains if d not in sources]
    if both := [d for d in sources if d in chosen]:
        raise UserError(f"{where}: '{both[0]}' is both trained and tested on")
    if not chosen:
        raise UserError(f"{where}: leaves no target")
    if twice := [d for d in sources + chosen if (sources + chosen).count(d) > 1]:
        raise UserError(f"{where}: names '{twice[0]}' twice")
    return "+".join(sources), chosen


def sources_of(source: str) -> list[str]:
    """The domains that a scenario's source is made of: `a+b` is two."""
    return source.split("+")


def corruption_of(target: str) -> tuple[str, str, int] | None:
    """Source, corruption and severity of a derived domain; None for a prepared one."""
    source, *corruption = target.split(":")
    return (source, corruption[0], int(corruption[1])) if corruption else None


def scenario_folder(name: str) -> str:
    """A scenario's name as a folder: `raabin->*` is `raabin_to_others`."""
    return name.replace("->", "_to_").replace("*", "others").replace(",", "_").replace("+", "_")
