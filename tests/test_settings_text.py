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
    "flow without a comma at the end": "    domains: [toy-a, # 1, [x]\n      toy-b # 2\n    ]\n",
    "flow closed on its own line": "    domains: [\n      toy-a,\n      toy-b\n    ] # mine\n",
    "flow with comments between": (
        "    domains: [ # one\n      toy-a,\n      # two\n      toy-b,\n    ]\n"
    ),
    "flow with commas before": "    domains: [ toy-a # one\n      , toy-b # two\n    ]\n",
    "flow with an anchor": "    domains: &ours [toy-a, toy-b] # mine\n",
    "block with an anchor": "    domains: &ours # mine\n      - toy-a\n      - toy-b\n",
    "a mark in it": "    domains: [toy-a, toy-b] # µ 🩸\n",
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


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_c8_every_comment_stays_but_that_of_a_domain_alone_on_its_line(
    tmp_path: Path, form: str
) -> None:
    path = settings(tmp_path, form)
    after = with_domain(path, "tiny", "our-lab").replace("toy-a->*", "our-lab->*")
    for name in ("toy-a", "toy-b"):
        path.write_bytes(after.encode())
        left = without_domain(path, "tiny", name)
        lines = [line for line in after.splitlines() if "#" in line]
        for line in lines:
            comment = line[line.index("#") :]
            alone = name in line and not {"toy-a", "toy-b", "our-lab"} - {name} & set(line.split())
            assert comment in left or alone, (comment, left)
        assert name not in left[left.index("domains:") :].split("experiments")[0]
        assert not [line for line in left.splitlines() if line.isspace()]


@pytest.mark.parametrize("name", ["2026-11-28", "123", "1e3", "0x1f", "true", "null"])
@pytest.mark.parametrize("form", ["flow", "block"])
def test_c8_a_name_that_yaml_reads_as_something_else_is_quoted(
    tmp_path: Path, form: str, name: str
) -> None:
    path = settings(tmp_path, FORMS[form])
    before = path.read_bytes()
    path.write_bytes(with_domain(path, "tiny", name).encode())
    assert load_params(path).profile("tiny").domains == ["toy-a", "toy-b", name]
    path.write_bytes(without_domain(path, "tiny", name).encode())
    assert path.read_bytes() == before


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_c8_a_list_at_the_end_of_a_file_without_a_line_end(tmp_path: Path, line_end: str) -> None:
    path = settings(tmp_path, FORMS["block"], line_end)
    text = path.read_bytes().decode()
    block = line_end.join(("    domains:", "      - toy-a # one", "      - toy-b # two"))
    text = (
        text.replace(block + line_end + "      # the end" + line_end, "").rstrip()
        + line_end
        + block
    )
    path.write_bytes(text.encode())
    path.write_bytes(with_domain(path, "tiny", "our-lab").encode())
    assert path.read_bytes().decode() == text + line_end + "      - our-lab"
    assert load_params(path).profile("tiny").domains == ["toy-a", "toy-b", "our-lab"]


def test_c8_a_byte_order_mark_stays(tmp_path: Path) -> None:
    path = settings(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    before = path.read_bytes()
    path.write_bytes(with_domain(path, "tiny", "our-lab").encode())
    assert b"[toy-a, toy-b, our-lab]" in path.read_bytes()
    path.write_bytes(without_domain(path, "tiny", "our-lab").encode())
    assert path.read_bytes() == before
