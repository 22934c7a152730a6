"""`params.yaml` gets a domain, or loses one, and every other character stays."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest
from conftest import PARAMS, REPOSITORY

from benchmark.errors import UserError
from benchmark.laboratory.transaction import with_domain, without_domain
from benchmark.settings import load_params

FLOW = "    domains: [toy-a, toy-b]\n"
FORMS = {
    "flow": FLOW,
    "flow with a comment": "    domains: [toy-a, toy-b] # mine\n",
    "flow in lines": "    domains: [toy-a, # one\n      toy-b, # two\n    ]\n",
    "flow quoted": "    domains: ['toy-a', \"toy-b\"]\n",
    "block": "    domains:\n      - toy-a # one\n      - toy-b # two\n      # the end\n",
    "block without indentation": "    domains:\n    - toy-a\n    - toy-b\n",
    "block quoted": "    domains:\n      -   'toy-a'\n      -   'toy-b'   # two\n",
}


def settings(tmp_path: Path, form: str = FLOW, line_end: str = "\n") -> Path:
    """A settings file whose domains stand in one of the forms of YAML."""
    assert PARAMS.count(FLOW) == 1
    text = PARAMS.replace(FLOW, form).replace("\n", line_end)
    path = tmp_path / "params.yaml"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_c8_a_domain_is_written_into_the_list_and_out_of_it_and_nothing_else_changes(
    tmp_path: Path, form: str, line_end: str
) -> None:
    path = settings(tmp_path, form, line_end)
    before = path.read_bytes().decode()
    after = with_domain(path, "tiny", "our-lab")
    changed = [
        line for line in difflib.ndiff(before.splitlines(True), after.splitlines(True))
        if line[0] in "+-"
    ]  # fmt: skip
    assert len(changed) <= 2
    for word in before.split():
        assert word.strip("[],") in after
    path.write_bytes(after.encode())
    assert load_params(path).profile("tiny").domains == ["toy-a", "toy-b", "our-lab"]
    path.write_bytes(without_domain(path, "tiny", "our-lab").encode())
    assert path.read_bytes().decode() == before
    for name, left in (("toy-a", "toy-b"), ("toy-b", "toy-a")):
        path.write_bytes(after.replace("toy-a->*", f"{left}->*").encode())
        path.write_bytes(without_domain(path, "tiny", name).encode())
        assert load_params(path).profile("tiny").domains == [left, "our-lab"]


@pytest.mark.parametrize("profile", ["demo", "phantom", "core", "full"])
def test_c8_of_the_shipped_settings_one_line_changes(tmp_path: Path, profile: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes((REPOSITORY / "params.yaml").read_bytes())
    before, after = path.read_text(), with_domain(path, profile, "our-lab")
    changed = [
        pair
        for pair in zip(before.splitlines(), after.splitlines(), strict=True)
        if pair[0] != pair[1]
    ]
    assert len(changed) == 1
    assert changed[0][1] == changed[0][0].replace("]", ", our-lab]")


def test_c8_a_list_that_two_profiles_share_is_not_changed(tmp_path: Path) -> None:
    path = settings(tmp_path, "    domains: &both [toy-a, toy-b]\n")
    own = PARAMS[PARAMS.index("  tiny:\n") :]
    second = own.replace("  tiny:\n", "  other:\n").replace(FLOW, "    domains: *both\n")
    path.write_text(path.read_text() + second)
    for profile in ("tiny", "other"):
        with pytest.raises(UserError, match=f"give {profile} one of its own"):
            with_domain(path, profile, "our-lab")
