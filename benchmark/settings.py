"""`params.yaml` as typed settings; an unknown key is an error that names the nearest known one."""

from __future__ import annotations

import math
from collections.abc import Collection
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from benchmark.errors import UserError, suggest
from benchmark.files import read_yaml
from benchmark.parts import (
    ANSWERING,
    AXES,
    BLOCKS,
    NAMED,
    PARTS,
    PLAIN,
    SETTINGS,
    Block,
    Parts,
    check_registered,
)
from benchmark.scenarios import expand_scenario, scenario_folder, sources_of
from benchmark.schema import (
    LONGEST_FOLDER,
    PARAMS,
    DomainName,
    Line,
    MethodName,
    Name,
    ProfileName,
    Strict,
    Subset,
    check_method,
    parse,
    refuse_twice,
)

LARGEST_SIDE = 1024
"""Pixels: beyond it a single image of a batch fills a GPU's memory."""
MOST_RUNS = 100_000
"""Of an experiment: more is a slip of the pen."""
SPLIT_PARTS = ("train", "id_val", "calibration", "id_test")


class Split(Strict):
    """How each source domain is cut into parts, once, for every profile."""

    seed: int = Field(ge=0, lt=2**32)
    fractions: dict[Literal["train", "id_val", "calibration", "id_test"], float]

    @field_validator("fractions")
    @classmethod
    def _whole(cls, fractions: dict[str, float]) -> dict[str, float]:
        if set(fractions) != set(SPLIT_PARTS):
            raise ValueError(f"needs exactly {', '.join(SPLIT_PARTS)}")
        if min(fractions.values()) <= 0 or abs(sum(fractions.values()) - 1) > 1e-9:
            raise ValueError("must be positive and add up to 1")
        return fractions


class Augmentation(Strict):
    """Random changes to a training image, drawn anew each epoch. Zero or false switches one off.

    They act in this order: RandAugment; mixed amplitudes; flips, turns, scale and shift; stain;
    optics; brightness, contrast and saturation; noise; JPEG.
    """

    dihedral: bool = False
    """Horizontal and vertical flips and quarter turns, each of the 8 views equally likely."""
    scale: float = Field(0.0, ge=0, lt=1)
    """Magnification drawn from 1 ± scale."""
    shift: float = Field(0.0, ge=0, lt=1)
    """Shift along x and y drawn from ± shift, as a fraction of the image's side."""
    brightness: float = Field(0.0, ge=0, lt=1)
    """Factor on all values, drawn from 1 ± brightness."""
    contrast: float = Field(0.0, ge=0, lt=1)
    """Factor on the distance from the image's mean, drawn from 1 ± contrast."""
    saturation: float = Field(0.0, ge=0, lt=1)
    """Factor on the distance from the pixel's grey value, drawn from 1 ± saturation."""
    rotation: float = Field(0.0, ge=0, le=180)
    """Turn by an angle drawn from ± rotation, degrees, on top of the quarter turns."""
    stain_mixing: float = Field(0.0, ge=0, lt=1)
    """Optical densities of R, G, B mixed by identity + a 3 × 3 matrix drawn from ± stain_mixing."""
    hed_jitter: float = Field(0.0, ge=0, lt=1)
    """Optical density of each of H, E and DAB times 1 ± hed_jitter, plus ± hed_jitter
    (Tellez 2018)."""
    stain_gain: float = Field(0.0, ge=0, le=2)
    """Factor on the optical density, drawn log-uniformly from exp(± stain_gain): the strength of
    the stain, or, what is the same, the gamma of the camera."""
    background: float = Field(0.0, ge=0, le=1)
    """Shift of the optical density of R, G and B, each drawn from ± background: colour and
    brightness of the lamp."""
    blur: float = Field(0.0, ge=0, le=0.2)
    """Gaussian blur, its standard deviation drawn from 0 … blur, as a fraction of the side."""
    resolution_loss: float = Field(0.0, ge=0, lt=1)
    """Reduction to a side drawn from 1 - resolution_loss … 1 of its own, and back."""
    noise: float = Field(0.0, ge=0, lt=1)
    """Gaussian noise, its standard deviation drawn from 0 … noise, as a fraction of full scale."""
    jpeg: float = Field(0.0, ge=0, lt=1)
    """JPEG-like quantisation at a quality drawn from 100 · (1 - jpeg) … 100."""
    randaugment: int = Field(0, ge=0, le=30)
    """Magnitude of RandAugment (Cubuk 2020): two of torchvision's fourteen changes, which know of
    no stain, microscope or camera."""
    amplitude_mixing: float = Field(0.0, ge=0, le=1)
    """Amplitudes of the Fourier spectrum mixed with those of another image of the batch, whose
    share is drawn from 0 … amplitude_mixing; the phases stay (Xu 2021)."""


Precision = Literal["fp32", "bf16", "bf16_cpu"]


class Training(Strict):
    """How a method is trained. All of it is part of a run's fingerprint."""

    epochs: int = Field(ge=0, le=100_000)
    """0 keeps the initial weights: what is fitted then is a readout."""
    batch_size: int = Field(ge=2, le=65_536)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    warmup_epochs: int = Field(ge=0, le=100_000)
    """Epochs of linear warm-up from zero, before the schedule."""
    patience: int = Field(ge=1, le=100_000)
    """Stop after so many epochs without a better macro-F1 on id_val, where the best is kept."""
    precision: Precision
    """bf16: autocast. bf16_cpu: the same, but for what processors are slow at in it."""
    augmentation: Augmentation = Augmentation()
    optimiser: str = "adamw"
    """sgd: with momentum 0.9."""
    schedule: str = "cosine"
    """cosine: to zero at the last step. steps: a tenth at each milestone. as_released: the cosine
    of tsutsui2023's code, by epochs and off by one."""
    milestones: tuple[float, ...] = (0.3, 0.6)
    """Where `steps` falls, as fractions of the epochs (he2023: 30 and 60 of 100)."""
    sampler: str = "instance"
    """instance: every image once an epoch. class_balanced: drawn with replacement, chance ∝ 1/n of
    its class. domain_balanced: as many of each source domain in every batch."""
    averaging: str = "none"
    """Of the weights. ema: moving average; swad: mean over the flat part of the training."""
    averaging_decay: float = Field(0.999, gt=0, lt=1)
    """Of ema, reached from below in the first steps."""
    selection: Literal["best", "last"] = "best"
    """Which epoch is kept: the best macro-F1 on id_val, over the classes present there, or the last
    of all (tsutsui2023)."""

    @field_validator(*SETTINGS)  # not run on defaults, so that reading these loads nothing
    @classmethod
    def _registered(cls, name: str, field: ValidationInfo) -> str:
        return check_registered(field.field_name, name)

    @model_validator(mode="after")
    def _one_choice_of_epochs(self) -> Training:
        if self.averaging == "swad" and self.selection == "last":
            raise ValueError("averaging swad chooses its epochs: leave selection at best")
        return self


Triple = tuple[float, float, float]


class Weights(Strict):
    """A block of `weights` in params.yaml: random (`{}`), a tag of timm's hub, a file, or the
    one that an installed package holds."""

    timm: str | None = None
    """A tag of the backbone on timm's hub: `a1h_in1k` of `resnet50.a1h_in1k`."""
    file: str | None = None
    """A safetensors file, or a torch pickle that holds nothing but tensors."""
    package: str | None = Field(None, pattern="^[A-Za-z_][A-Za-z0-9_]*$")
    """A package of the index that is installed and holds one file of weights."""
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """What the file, or the hub's file, must have."""
    names: Literal["ibn_net", "dinov2", "in_order"] | None = None
    """How names in the file become the backbone's; null where they are the same. in_order: by the
    place of each tensor."""
    training_datasets: list[str] | None = None
    """Every data set the weights were made with, in the names of the cards; null is unknown."""
    mean: Triple | None = None
    std: Triple | None = None
    interpolation: str | None = None
    crop: float | None = Field(None, gt=0, le=1)
    """Null follows what timm knows of the weights (of the backbone, for a file)."""

    @model_validator(mode="after")
    def _one_source(self) -> Weights:
        if sum(map(bool, (self.timm, self.file, self.package))) > 1:
            raise ValueError("takes one of timm, file and package")
        if self.from_scratch and self.model_dump(exclude_none=True):
            raise ValueError("random weights take no key; name a source: timm, file or package")
        if self.names and self.timm:
            raise ValueError("names belongs to a file")
        return self

    @property
    def from_scratch(self) -> bool:
        """Whether nothing is loaded."""
        return not (self.timm or self.file or self.package)

    def contamination(self, names: Collection[str]) -> Literal["clean", "contaminated", "unknown"]:
        """Whether the weights have seen the images of a test domain.

        Args:
            names: every name under which the domain's images circulate: its data set and those
                made from the same images (`pbc` and `bloodmnist`).
        """
        if self.from_scratch:
            return "clean"
        if self.training_datasets is None:
            return "unknown"
        seen = {name.casefold() for name in self.training_datasets}
        return "contaminated" if seen & {name.casefold() for name in names} else "clean"


FROM_SCRATCH = Weights()


class Method(Parts):
    """What is trained and how it answers; or an ensemble of other methods."""

    training: dict[str, Any] = Field(default_factory=dict)
    """Training settings that differ from the profile's."""
    members: list[str] = Field(default_factory=list)
    """Methods of the same experiment whose probabilities are averaged: an ensemble, which has no
    other part."""

    @field_validator("backbone")
    @classmethod
    def _timm_name(cls, name: str) -> str:
        return name and check_method(name)

    @model_validator(mode="after")
    def _network_or_members(self) -> Method:
        if bool(self.backbone) == bool(self.members):
            raise ValueError("needs a backbone (a network) or members (an ensemble), not both")
        if self.members and self.model_fields_set != {"members"}:
            raise ValueError("an ensemble has members and no part of its own")
        if len(set(self.members)) != len(self.members) or len(self.members) == 1:
            raise ValueError("an ensemble needs two members or more, each named once")
        return self

    @property
    def canonical_name(self) -> str:
        """Name made of the parts; a part as in plain training from scratch is left out."""
        return "-".join(self.chosen(NAMED).values())

    @property
    def trained(self) -> Method:
        """The method whose training this one shares: the same network, answering plainly."""
        return self.model_copy(update={part: PLAIN[part] for part in ANSWERING})


def axis(part: str) -> tuple[Any, Any]:
    """Type and default of the key of an experiment that lists values of a part."""
    values = list[Parts.model_fields[part].annotation]
    plain = Field(default_factory=lambda: [PLAIN[part]])
    return Annotated[values, Field(min_length=1, max_length=1000)], plain


Grid = create_model(
    "Grid", __base__=Strict, **{PARTS[part].plural: axis(part) for part in AXES[1:]}
)
"""The values of each part that a grid varies, beside its backbones."""


class ExperimentSettings(Grid):
    """One question, one table: a grid of methods, and named ones, over scenarios and seeds."""

    title: Line
    scenarios: Annotated[list[str], Field(min_length=1, max_length=1000)]
    backbones: list[MethodName] = Field(default_factory=list)
    methods: list[MethodName] = Field(default_factory=list)
    """Named methods, beside the grid."""
    seeds: int = Field(ge=1)
    """Seeds 0 … seeds - 1."""
    about: list[Line] = Field(default_factory=list)
    """Notes under its tables, without a full stop: what differs from a paper, for instance."""

    @model_validator(mode="after")
    def _some_method_each_once(self) -> ExperimentSettings:
        if not self.backbones and not self.methods:
            raise ValueError("needs backbones (a grid) or methods (named ones)")
        if not self.backbones:
            idle = [plural for plural in Grid.model_fields if plural in self.model_fields_set]
            if idle:
                raise ValueError(
                    f"{idle[0]} vary a grid, and without backbones there is none: name backbones, "
                    f"or give each of the methods its own {idle[0]}"
                )
        lengths = []
        for name in ("scenarios", "backbones", *Grid.model_fields, "methods"):
            chosen = getattr(self, name)
            refuse_twice((str(one) for one in chosen), name)
            lengths.append(len(chosen))
        scenarios, *axes, named = lengths
        runs = scenarios * (math.prod(axes) + named) * self.seeds
        if runs > MOST_RUNS:
            raise ValueError(
                f"{runs:,} runs are more than the {MOST_RUNS:,} that an experiment may have: "
                "make the grid smaller, or take fewer seeds"
            )
        return self


class Framing(Strict):
    """Another size of the images, or more or less of what surrounds a cell, in all domains."""

    image_size: int | None = Field(None, ge=32, le=LARGEST_SIDE)
    """Side in pixels; without one, the profile's."""
    crop: float = Field(1.0, gt=0, le=2)
    """Factor on the side of the square that a card cuts; no square is larger than its image."""

    @model_validator(mode="after")
    def _something_else(self) -> Framing:
        if self.image_size is None and self.crop == 1:
            raise ValueError("changes nothing: give an image_size or a crop")
        return self


class Profile(Strict):
    """Data and grid of one pipeline. Profiles differ in nothing else."""

    subset: Subset
    image_size: int = Field(ge=32, le=LARGEST_SIDE)
    """Side of the square images in pixels. Below 32 a ResNet's last feature map is empty."""
    framings: dict[Name, Framing] = Field(default_factory=dict)
    """Other ways to show the same cells, by name; methods choose one."""
    label_space: str
    folds: int | None = Field(None, ge=2, le=20)
    """Cross-fitting: seed k tests fold k of each source in-domain. Without, the split's id_test."""
    domains: list[DomainName] = Field(min_length=2, max_length=1000)
    training: Training
    experiments: dict[Name, ExperimentSettings] = Field(min_length=1)

    @model_validator(mode="after")
    def _scenarios_within_domains(self) -> Profile:
        refuse_twice(self.domains, "domains")
        refuse_twice(self.experiments, "experiments")
        folders: dict[str, str] = {}
        sets: dict[str, str] = {}
        for name, experiment in self.experiments.items():
            for scenario in experiment.scenarios:
                try:
                    expand_scenario(scenario, self.domains)
                except UserError as error:
                    raise ValueError(f"experiments.{name}.scenarios: {error}") from None
                source, arrow, targets = scenario.partition("->")
                order = "+".join(sorted(sources_of(source)))
                if (same := sets.setdefault(f"{order}{arrow}{targets}", scenario)) != scenario:
                    raise ValueError(
                        f"experiments.{name}.scenarios: '{scenario}' and '{same}' are one "
                        "scenario in two orders: write it the same way throughout"
                    )
                folder = scenario_folder(scenario)
                if len(folder) > LONGEST_FOLDER:
                    raise ValueError(
                        f"experiments.{name}.scenarios: a scenario's name makes a folder of "
                        f"{len(folder)} characters: give its domains shorter names, or write `*`"
                    )
                other = folders.setdefault(folder.lower(), scenario)
                if other != scenario:
                    raise ValueError(
                        f"experiments.{name}.scenarios: '{scenario}' and '{other}' would share "
                        f"the folder {folder}: rename a domain"
                    )
        return self

    def size_of(self, framing: str | None) -> int:
        """Side in pixels of the images in a framing, which has to be one of the profile's."""
        if framing not in (None, *self.framings):
            near = suggest(framing, self.framings)
            raise UserError(f"no '{framing}' under the profile's framings{near}")
        return (self.framings[framing].image_size if framing else None) or self.image_size

    def sources(self) -> list[str]:
        """The domains that the profile's experiments train on, sorted."""
        scenarios = {s for e in self.experiments.values() for s in e.scenarios}
        joined = {expand_scenario(s, self.domains)[0] for s in scenarios}
        return sorted({source for sources in joined for source in sources_of(sources)})


BLOCK_TYPES = {"augmentation": Augmentation, "weights": Weights}
"""Parts whose blocks are typed; those of others have the parameters of what they build."""
Blocks = create_model(
    "Blocks",
    __base__=Strict,
    **{
        plural: (dict[Name, BLOCK_TYPES.get(part, Block)], Field(default_factory=dict))
        for part, plural in BLOCKS.items()
    },
)
"""The building blocks of each part by name."""


class Params(Blocks):
    """The whole of `params.yaml`."""

    split: Split
    methods: dict[MethodName, Method] = Field(default_factory=dict)
    profiles: dict[ProfileName, Profile] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_once(self) -> Params:
        refuse_twice(self.profiles, "profiles")
        refuse_twice(self.methods, "methods")
        return self

    def profile(self, name: str) -> Profile:
        """The profile called `name`; an unknown name is a `UserError`."""
        if name not in self.profiles:
            raise UserError(f"{PARAMS}: no profile '{name}'{suggest(name, self.profiles)}")
        return self.profiles[name]

    def block(self, part: str, name: str) -> Block:
        """The block of a part; the plain value needs none."""
        return getattr(self, BLOCKS[part]).get(name, {})

    def weights_of(self, method: Method) -> Weights:
        """The block of `weights` that a method starts from."""
        return self.weights.get(method.weights, FROM_SCRATCH)

    def sources(self) -> list[str]:
        """Every domain that some profile trains on, sorted."""
        return sorted({s for profile in self.profiles.values() for s in profile.sources()})

    def folds_of(self, source: str) -> list[int]:
        """Into how many folds the profiles that cross-fit cut a source, sorted."""
        return sorted(
            {p.folds for p in self.profiles.values() if p.folds and source in p.sources()}
        )

    def methods_of(self, experiment: ExperimentSettings) -> dict[str, Method]:
        """The methods of an experiment by name: its grid, then the named ones.

        Raises:
            UserError: two of them differ and have one name.
        """
        named = [(name, self.methods[name]) for name in experiment.methods]
        return one_name_each(
            [*((method.canonical_name, method) for method in grid(experiment)), *named]
        )

    def all_methods(self) -> dict[str, Method]:
        """Every method by name: the named ones, and what the grids of all profiles give.

        Raises:
            UserError: two of them differ and have one name, under which one would hide the other.
        """
        grids = [
            (method.canonical_name, method)
            for profile in self.profiles.values()
            for experiment in profile.experiments.values()
            for method in grid(experiment)
        ]
        return one_name_each([*self.methods.items(), *grids])


def one_name_each(methods: list[tuple[str, Method]]) -> dict[str, Method]:
    """Methods by name; a `UserError` if two that differ have the same one."""
    found: dict[str, Method] = {}
    for name, method in methods:
        other = found.setdefault(name, method)
        if other != method:
            apart = [p for p in Method.model_fields if getattr(method, p) != getattr(other, p)]
            raise UserError(
                f"'{name}' is the name of two methods, one of a grid and one that differs from it "
                f"in {', '.join(apart)}: rename the block or the method"
            )
    return found


def load_params(path: Path = PARAMS) -> Params:
    """Read and check `params.yaml`, blocks named by the grids included.

    Raises:
        UserError: one line that names the file, the key and the nearest known one.
    """
    if not Path(path).exists():
        raise UserError(f"{path} is not here: run in the project's root folder")
    params = parse(Params, read_yaml(path), str(path))
    for name, method in params.methods.items():
        check_parts(params, method, f"{path}: methods.{name}")
    try:
        params.all_methods()
    except UserError as error:
        raise UserError(f"{path}: methods: {error}") from None
    for profile_name, profile in params.profiles.items():
        for name, experiment in profile.experiments.items():
            where = f"{path}: profiles.{profile_name}.experiments.{name}"
            for chosen in experiment.methods:
                if chosen not in params.methods:
                    near = suggest(chosen, params.methods)
                    raise UserError(f"{where}.methods: no '{chosen}' under methods{near}")
            for method in grid(experiment):
                check_parts(params, method, where)
                try:
                    check_method(method.canonical_name)
                except ValueError as error:
                    raise UserError(f"{where}: {error}") from None
            for chosen, method in params.methods_of(experiment).items():
                try:
                    profile.size_of(method.framing)
                except UserError as error:
                    raise UserError(f"{where}: {chosen}: {error}") from None
    return params


def check_parts(params: Params, method: Method, where: str) -> None:
    """Raise a `UserError` if a method names a block that `params.yaml` does not have."""
    if method.members:
        return
    for part, plural in BLOCKS.items():
        chosen, known = getattr(method, part), getattr(params, plural)
        if chosen != PLAIN[part] and chosen not in known:
            raise UserError(f"{where}: no '{chosen}' under {plural}{suggest(chosen, known)}")


def grid(experiment: ExperimentSettings) -> list[Method]:
    """The grid of an experiment: the product of its axes, the backbone slowest."""
    axes = [getattr(experiment, PARTS[part].plural) for part in AXES]
    return [Method(**dict(zip(AXES, parts, strict=True))) for parts in product(*axes)]
