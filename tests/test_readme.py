"""The README says what is there: its table is the generated one, its links and commands exist."""

from __future__ import annotations

import re

import pytest
from conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_the_table_on_real_data_is_the_generated_one() -> None:
    block = re.search(r"<!-- (results/\S+\.md) -->\n(.*?)\n<!-- end -->", README, re.DOTALL)
    assert block is not None
    assert block[2].strip() == (REPOSITORY / block[1]).read_text(encoding="utf-8").strip()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_links_lead_somewhere(target: str) -> None:
    assert target.startswith("https://") or (REPOSITORY / target).exists()


def test_commands_and_make_targets_exist() -> None:
    from benchmark.cli import app

    known = {command.callback.__name__ for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    assert set(re.findall(r"wbc-shift ([a-z]+)", README)) <= known
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)(?:\S+=\S+ +)?make ([a-z]+)", README, re.MULTILINE))
    assert {"demo", "test", "core"} <= named <= targets
