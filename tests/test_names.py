"""Names that become folders, sizes that would be expanded, and words that mean something else:
refused where settings and cards are read, in one line, before anything is made of them."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from conftest import CARD, PARAMS, REPOSITORY, edit

from benchmark.data.cards import load_cards
from benchmark.data.prepare import remove_unknown
from benchmark.errors import UserError
from benchmark.metrics import HEADLINE
from benchmark.schema import check_method, check_name, check_run_id
from benchmark.settings import load_params

OUTSIDE = ["../../outside", "/tmp/outside", "..", ".hidden", "a/b", "a\\b", "C:x", "~", "-rf", ""]
STRANGE = [
    "a:b",
    "x.open_set",
    "a b",
    "a,b",
    "a*",
    "ä",
    "$x$",
    "a\nb",
    "n" * 300,
    "nul",
    "COM1",
    "a\x00",
]


@pytest.fixture
def params(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS)
    return path


def quoted(name: str) -> str:
    """A name as YAML writes it, whatever is in it."""
    signs = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\x00": "\\0"}
    return '"' + "".join(signs.get(sign, sign) for sign in name) + '"'


def refused(path: Path) -> str:
    """The one line that refuses a file of settings."""
    with pytest.raises(UserError) as fault:
        load_params(path)
    line = str(fault.value)
    assert "\n" not in line
    assert len(line) < 600
    assert "params.yaml" in line
    return line


@pytest.mark.parametrize("name", [*OUTSIDE, *STRANGE])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  tiny:\n", "  {}:\n"),
        ("      first:\n", "      {}:\n"),
        ("profiles:\n", "methods: {{{}: {{backbone: resnet10t}}}}\nprofiles:\n"),
        ("[toy-a, toy-b]", "[toy-a, toy-b, {}]"),
        ("    training:\n", "    framings: {{{}: {{crop: 0.5}}}}\n    training:\n"),
        ("[resnet10t]", "[{}]"),
    ],
)
def test_d2_a_name_that_leads_elsewhere_is_refused_in_settings(
    params: Path, name: str, old: str, new: str
) -> None:
    edit(params, old, new.format(quoted(name)))
    if name == "x.open_set" and ("backbone" in new or new == "[{}]"):
        load_params(params)  # a method may have a dot, as tags of timm do
    else:
        refused(params)


@pytest.mark.parametrize("name", [*OUTSIDE, *STRANGE, "others", "corruptions"])
def test_d2_a_name_that_leads_elsewhere_is_refused_in_a_card(project: Path, name: str) -> None:
    path = Path("datasets/toy.yaml")
    path.write_text(CARD.replace("  toy-a:", f"  {quoted(name)}:"))
    with pytest.raises(UserError) as fault:
        load_cards(Path("datasets"))
    assert "\n" not in str(fault.value)


def test_d2_names_in_use_pass() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    for name in params.all_methods():
        assert check_method(name) == name
    assert len(load_cards(REPOSITORY / "datasets")) >= 15
    for path in (REPOSITORY / "results" / "core" / "runs").glob("*/*/seed*"):
        run_id = "/".join(path.parts[-3:])
        assert check_run_id(run_id) == run_id


@pytest.mark.parametrize(
    "run_id",
    ["../../../etc", "a/b", "a/b/seed", "a/../seed0", "/a/b/seed0", "a/b/seed0/..", "a\n/b/seed0"],
)
def test_d2_a_run_id_stays_in_its_folder(run_id: str) -> None:
    with pytest.raises(ValueError, match="give METHOD/SCENARIO/seedK"):
        check_run_id(run_id)


@pytest.mark.parametrize("command", ["evaluate", "report", "compare", "score", "gallery", "embed"])
def test_d2_a_profile_named_on_the_command_line_stays_in_results(
    project: Path, tmp_path: Path, wbc_shift, command: str
) -> None:
    (tmp_path / "outside" / "experiments").mkdir(parents=True)
    more = {
        "compare": ("a", "b"), "score": ("x.csv", "--scenario", "a->*"), "embed": ("a/b/seed0",),
    }  # fmt: skip
    outcome = wbc_shift(command, *more.get(command, ()), "-p", "../../outside")
    assert outcome.status == 1
    assert "cannot be a name" in outcome.err or "no profile" in outcome.err
    assert [p.name for p in (tmp_path / "outside").iterdir()] == ["experiments"]


def test_d2_cleaning_a_cache_deletes_only_what_prepare_made(tmp_path: Path) -> None:
    kept = [tmp_path / "notes.json", tmp_path / "mine.npy", tmp_path / "broken.json"]
    kept[0].write_text('{"key": 1}')
    kept[1].write_bytes(b"numbers")
    kept[2].write_text("[")
    (tmp_path / "gone.npy").write_bytes(b"pixels")
    (tmp_path / "gone.json").write_text('{"key": "a", "sha256": "b"}')
    (tmp_path / "stays.npy").write_bytes(b"pixels")
    (tmp_path / "stays.json").write_text('{"key": "a", "sha256": "b"}')
    remove_unknown(tmp_path, [tmp_path / "stays.npy"])
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == sorted([*(path.name for path in kept), "stays.npy", "stays.json"])


def test_d6_a_named_method_never_replaces_one_of_the_grid(params: Path) -> None:
    edit(
        params,
        "profiles:\n",
        "methods: {resnet10t-bn-ce: {backbone: resnet10t, normalisation: gn}}\nprofiles:\n",
    )
    line = refused(params)
    assert "'resnet10t-bn-ce' is the name of two methods" in line
    assert "normalisation" in line


def test_d6_a_block_never_hides_another_part_of_the_same_name(params: Path) -> None:
    # `resnet10t-bn-ce-tta` would be the augmentation as well as the inference.
    edit(
        params,
        "profiles:\n",
        "inferences: {tta: {views: dihedral}}\naugmentations: {tta: {dihedral: true}}\nprofiles:\n",
    )
    edit(
        params,
        "        seeds: 1\n",
        "        seeds: 1\n        augmentations: [null, tta]\n        inferences: [single, tta]\n",
    )
    assert "is the name of two methods" in refused(params)


@pytest.mark.parametrize("domain", ["others", "corruptions", "corruptions_medmnist", "Others"])
def test_d11_a_domain_has_no_name_that_a_scenario_uses(params: Path, domain: str) -> None:
    text = params.read_text().replace("toy-b]", f"toy-b, {domain}]")
    params.write_text(text.replace('"toy-a->*"', f'"toy-a->*", "toy-a->{domain}"'))
    assert "choose another name" in refused(params)


def test_d11_two_scenarios_never_share_a_folder(params: Path) -> None:
    text = params.read_text().replace("toy-b]", "b, c, b_c]")
    params.write_text(text.replace('"toy-a->*"', '"toy-a->b,c", "toy-a->b_c"'))
    assert "would share the folder toy-a_to_b_c" in refused(params)


def test_two_experiments_never_share_the_file_of_a_table() -> None:
    """Its name is the experiment's and one of these endings, or one of all experiments together."""
    modules = (REPOSITORY / "benchmark/report").glob("*.py")
    text = "".join(path.read_text(encoding="utf-8") for path in modules)
    endings = {HEADLINE, *re.findall(r'f"\{experiment\.experiment\}_(\w+)"', text)}
    together = set(re.findall(r'\bsheet\(\s*"(\w+)"', text))
    assert {"corruptions", "effects", "response"} < endings
    assert {"claims", "open_set", "unlabelled_cells"} < together
    assert not {(a, b) for a in endings | together for b in endings if a.endswith(f"_{b}")}


def test_d14_a_method_is_not_called_majority(params: Path) -> None:
    edit(params, "profiles:\n", "methods: {majority: {backbone: resnet10t}}\nprofiles:\n")
    assert "'majority' is the row of the commonest class" in refused(params)


def bomb(levels: int = 12, merge: bool = False) -> str:
    """A YAML text that aliases multiply by nine at each level."""
    lines = [
        "a0: &a0 {x: lol}" if merge else "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"
    ]
    for level in range(1, levels):
        nine = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"a{level}: &a{level} " + (f"{{<<: [{nine}]}}" if merge else f"[{nine}]"))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("merge", [False, True])
def test_d12_aliases_are_counted_before_they_are_expanded(params: Path, merge: bool) -> None:
    params.write_text(bomb(merge=merge) + PARAMS)
    assert "aliases make it too large" in refused(params)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: 1", "seeds: 1000000", "2,000,000 runs are more than the 100,000"),
        ("image_size: 48", "image_size: 200000", "less than or equal to 1024"),
        ("epochs: 2", "epochs: 10000000", "less than or equal to"),
        ("batch_size: 16", "batch_size: 10000000", "less than or equal to"),
        ("  seed: 0", "  seed: " + "9" * 5000, "digits"),
        ("  seed: 0", "  seed: 99999999999999999999", "more than 18 digits"),
        ("title: A first question", "title: " + "x" * 5000, "at most 300"),
        ("title: A first question", "title: " + "x" * 3_000_000, "larger than"),
        ("title: A first question", 'title: "\\e[2J"', "holds the character \\x1b"),
        ("title: A first question", "title: " + "[" * 5000, "nested too deeply"),
    ],
)
def test_d12_d13_sizes_are_refused_before_anything_is_made(
    params: Path, old: str, new: str, message: str
) -> None:
    edit(params, old, new)
    assert message in refused(params)


@pytest.mark.parametrize("number", [".nan", ".inf", "-.inf", "1e400"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("gamma: 2.0", "gamma: {}"),
        ("groups: 8", "groups: {}"),
        ("id_test: 0.2}", "id_test: {}}}"),
        ("learning_rate: 1e-3", "learning_rate: {}"),
        ("scale: 0.1", "scale: {}"),
        ("seeds: 1", "seeds: {}"),
    ],
)
def test_d13_a_number_that_is_none_is_refused_everywhere(
    params: Path, number: str, old: str, new: str
) -> None:
    edit(params, old, new.format(number))
    assert "no finite number" in refused(params)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("normalisations: [bn]", "normalisations: []", "normalisations: List should have at least"),
        ("losses: [ce, focal]", "losses: []", "losses: List should have at least"),
        ("losses: [ce, focal]", "losses: [ce, ce]", "losses 'ce' is there twice"),
        ("[toy-a, toy-b]", "[toy-a, toy-b, TOY-B]", "domains 'toy-b' is there twice"),
        ('["toy-a->*"]', '["toy-a->*", "toy-a->*"]', "is there twice"),
        ('["toy-a->*"]', '["toy-a->toy-b,toy-b"]', "names 'toy-b' twice"),
    ],
)
def test_d13_d5_an_empty_list_or_one_with_a_value_twice_is_refused(
    params: Path, old: str, new: str, message: str
) -> None:
    edit(params, old, new)
    assert message in refused(params)


@pytest.mark.parametrize("groups", ["0", "-3", "many", "true", "2.5"])
def test_d13_a_number_of_groups_is_told_before_training(prepared: Path, wbc_shift, groups) -> None:
    edit(Path("params.yaml"), "groups: 8", f"groups: {groups}")
    edit(Path("params.yaml"), "normalisations: [bn]", "normalisations: [gn]")
    outcome = wbc_shift("validate", "-p", "tiny")
    assert outcome.status == 1
    assert outcome.err.count("\n") == 1
    assert "normalisations.gn" in outcome.err
    assert "groups" in outcome.err


def test_names_and_settings_of_any_kind_are_read_or_refused_in_one_line(params: Path) -> None:
    """Generated: 300 seeded changes of a value or name to something hostile."""
    generator = random.Random(17)
    words = [*OUTSIDE, *STRANGE, "others", "majority", "null", "true", "1", "1e400", "[]", "{}"]
    places = PARAMS.replace("{", " {").split("\n")
    alphabet = "aZ09_-.+:/\\*&!|>'\"%@`{}[],#?~ \t\x7fäé\u202e\ud83d\ude00\u4e2d$^\x1b=<"
    for _ in range(300):
        lines = list(places)
        place = generator.randrange(len(lines) - 1)
        key, colon, _ = lines[place].partition(":")
        hostile = generator.choice(words)
        if generator.random() < 0.5:
            hostile = "".join(generator.choices(alphabet, k=generator.randint(1, 40)))
        hostile = hostile.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if generator.random() < 0.5:
            hostile = quoted(hostile)
        indent = key[: len(key) - len(key.lstrip())]
        lines[place] = (
            f"{key}: {hostile}" if colon and generator.random() < 0.6 else f"{indent}{hostile}: 1"
        )
        params.write_text("\n".join(lines), encoding="utf-8")
        line = ""
        try:
            load_params(params)
        except UserError as error:
            line = str(error)
        assert "\n" not in line
        assert "\x1b" not in line
        assert len(line) < 1000


def test_a_name_that_passes_is_a_plain_part_of_a_path() -> None:
    """Generated: whatever passes the rule is one part of a path, as git, DVC and shells see it."""
    generator = random.Random(5)
    passed = 0
    for _ in range(2000):
        length = generator.choice([1, 2, 3, 8, 64, 65])
        name = "".join(generator.choices("abcXYZ019_-./\\: \n$\x00é", k=length))
        try:
            check_name(name)
        except ValueError:
            continue
        passed += 1
        assert Path(name).parts == (name,)
        assert name.isascii()
        assert name[0].isalnum()
        assert not set(name) & set("./\\: \n$\x00")
    assert passed > 100
