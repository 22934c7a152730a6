"""Splits made again."""

from __future__ import annotations

from pathlib import Path

from conftest import REPOSITORY

from benchmark.data.cards import card_of, load_cards
from benchmark.data.split import (
    split_domain,
    split_path,
)
from benchmark.settings import load_params


def split_anew(domain: str, tmp_path: Path) -> Path:
    """The file that the command writes for a domain of the repository."""
    params = load_params(REPOSITORY / "params.yaml")
    card = card_of(load_cards(REPOSITORY / "datasets"), domain)
    for name in ("manifests", "exclusions.csv", "same_cells.csv"):
        (tmp_path / name).symlink_to(REPOSITORY / "datasets" / name)
    split_domain(tmp_path, card, domain, params.split)
    return split_path(tmp_path, domain)
