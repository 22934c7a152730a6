"""The range of a source's own images, beyond which `predict` accepts no prediction.

A network's confidence says nothing of images unlike those that it was trained on: it is as high for
cells of another stain, and for whole fields. So the source's training images say what its cells
look like, in numbers that every laboratory's images have, and its held-out images say how far its
own depart from that. `results/<profile>/ranges.json` holds both for each source and framing, so
that `predict` needs none of the source's images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, PositiveFloat

from benchmark.data.arrays import PreparedImages, facts_path, read_prepared
from benchmark.data.cards import load_label_spaces
from benchmark.data.stain import lab_of
from benchmark.domains.facts import nucleus_of
from benchmark.errors import UserError
from benchmark.files import digest, write_json
from benchmark.progress import say
from benchmark.scenarios import sources_of
from benchmark.schema import Record, read_record
from benchmark.settings import Params
from benchmark.study.plan import profile_folder

VERSION = 1
"""Raise it when the same images get another range."""
PARTS = {
    "colour of the nucleus": slice(0, 3),
    "colour around the nucleus": slice(3, 6),
    "size of the nucleus": slice(6, 7),
    "sharpness": slice(7, 8),
}
"""What an image is described by → its columns in `appearance`."""
RANGE_PARTS = ("train", "id_val", "calibration")
"""Parts of a source that its range is of: mean and covariance of the first, the limit of the rest,
which are held out from training and are not its test images."""
LEVEL = 0.99
"""Share of the source's held-out images that lie in its range."""
FOREIGN_SHARE = 0.15
"""Share of a folder's images beyond the range above which the folder is another laboratory's. Of
the images of a held-out smear of Raabin up to 0.07 are beyond it, of other laboratories' 0.27 (from
PBC to cellavision) or more."""
LEAST_IMAGES = 40
"""Training images below which a covariance of `appearance` is not estimated."""


Looks = Annotated[list[float], Field(min_length=8, max_length=8)]
"""One number for each column of `appearance`."""


class KeptRange(Record):
    """Where the own images of a source lie, in a framing."""

    source: str
    framing: str | None
    data: str
    images: int
    held_out: int
    mean: Looks
    covariance: Annotated[list[Looks], Field(min_length=8, max_length=8)]
    limit: PositiveFloat


class Ranges(Record):
    """`ranges.json`."""

    ranges: list[KeptRange]


def appearance(pixels: np.ndarray) -> np.ndarray:
    """What a centred cell looks like: uint8 [N, S, S, 3] → float64 [N, 8], NaN without a nucleus.

    Mean CIELAB of the nucleus and of all around it; the nucleus's diameter as a fraction of the
    side; and log of the share of grey contrast that a blur of one pixel takes away.
    """
    # Lazy: every command reads the command line; few look at images.
    from scipy.ndimage import gaussian_filter

    facts = np.full((len(pixels), 8), np.nan)
    for row, image in enumerate(pixels):
        nucleus = nucleus_of(image)
        if not nucleus.any() or nucleus.all():
            continue
        lab, grey = lab_of(image[None])[0], image.mean(axis=2)
        fine = grey - gaussian_filter(grey, 1)
        diameter = 2 * np.sqrt(nucleus.sum() / np.pi) / len(image)
        sharpness = np.log(fine.std() / grey.std())
        facts[row] = *lab[nucleus].mean(axis=0), *lab[~nucleus].mean(axis=0), diameter, sharpness
    return facts


@dataclass(frozen=True)
class SourceRange:
    """Where a source's own images lie.

    Attributes:
        source: the domain.
        images: its training images, which mean and covariance are of.
        held_out: its images that `limit` is of.
        mean: of `appearance`, [8].
        covariance: of the same, [8, 8].
        limit: the Mahalanobis distance up to which `LEVEL` of its held-out images lie.
    """

    source: str
    images: int
    held_out: int
    mean: list[float]
    covariance: list[list[float]]
    limit: float

    def distances(self, facts: np.ndarray, part: slice = slice(None)) -> np.ndarray:
        """Mahalanobis distance of `appearance` [N, 8], or of some columns of it, from the source's
        mean: float64 [N], inf for an image without a nucleus."""
        apart = (facts - self.mean)[:, part]
        inverse = np.linalg.inv(np.array(self.covariance)[part, part])
        squares = np.einsum("ij,jk,ik->i", apart, inverse, apart)
        return np.where(np.isnan(squares), np.inf, np.sqrt(squares))

    def why(self, facts: np.ndarray) -> str:
        """Why an image of an `appearance` [8] is beyond the range, in words."""
        if np.isnan(facts).any():
            return f"unlike {self.source}'s images: no nucleus is found in the middle"
        each = {
            name: self.distances(facts[None], part)[0] / np.sqrt(part.stop - part.start)
            for name, part in PARTS.items()
        }
        most = max(each, key=each.__getitem__)
        return (
            f"{most} unlike {self.source}'s (distance {self.distances(facts[None])[0]:.1f}, "
            f"its own images up to {self.limit:.1f})"
        )


def fit_range(source: str, train: np.ndarray, held_out: np.ndarray) -> SourceRange:
    """The range of a source from `appearance` of its training and of its held-out images.

    The covariance is shrunk as far as its sample is small (Ledoit and Wolf 2004), in units of each
    column's standard deviation.

    Raises:
        UserError: too few images.
    """
    from sklearn.covariance import LedoitWolf

    train, held_out = (facts[~np.isnan(facts).any(axis=1)] for facts in (train, held_out))
    if len(train) < LEAST_IMAGES or not len(held_out):
        raise UserError(
            f"{source}: {len(train)} training and {len(held_out)} held-out images with a nucleus "
            f"are too few to say what its images look like: {LEAST_IMAGES} and 1 are the fewest"
        )
    mean, spread = train.mean(axis=0), np.maximum(train.std(axis=0), 1e-6)
    shrunk = LedoitWolf(assume_centered=True).fit((train - mean) / spread).covariance_
    fitted = SourceRange(
        source,
        len(train),
        len(held_out),
        [six_figures(value) for value in mean],
        [[six_figures(value) for value in row] for row in shrunk * np.outer(spread, spread)],
        limit=np.inf,
    )
    limit = np.quantile(fitted.distances(held_out), LEVEL, method="higher")
    return replace(fitted, limit=six_figures(limit))


def six_figures(value: float) -> float:
    """A number as `ranges.json` holds it."""
    return float(f"{value:.6g}")


def ranges_path(root: Path, profile: str) -> Path:
    """The file of a profile's ranges, which is for git."""
    return profile_folder(root, profile) / "ranges.json"


def read_kept_ranges(path: Path) -> list[dict[str, Any]]:
    """The ranges of the sources' own images: `results/<profile>/ranges.json`."""
    again = f"run `wbc-shift prepare -p {Path(path).parent.name}`"
    return read_record(path, Ranges, again)["ranges"]


def write_ranges(root: Path, params: Params, name: str) -> None:
    """Write the range of each source of a profile, in every framing; keep what is up to date.

    A source without a split, or with too few images, gets none, and it is said why.
    """
    profile, path = params.profile(name), ranges_path(root, name)
    classes = load_label_spaces(root / "datasets")[profile.label_space]
    try:
        known = read_kept_ranges(path)
    except UserError:
        known = []  # none yet, or broken: they are made anew
    data = read_prepared(facts_path(root, name))
    ranges = []
    for framing in (None, *profile.framings):
        prepared = PreparedImages(root, name, classes, framing)
        for source in profile.sources():
            of = {"framing": framing, "source": source, "data": digest_of(data, source, framing)}
            try:
                train, *held_out = (prepared.part(source, part) for part in RANGE_PARTS)
                places = [own.table["image"].tolist() for own in (train, *held_out)]
                of["parts"] = digest([VERSION, LEVEL, places[0], places[1] + places[2]])
                entry = next((old for old in known if of.items() <= old.items()), None)
                if entry is None:
                    pixels = np.concatenate([own.pixels for own in held_out])
                    fitted = fit_range(source, appearance(train.pixels), appearance(pixels))
                    entry = of | vars(fitted)
            except UserError as why:
                say(f"note: no range of {source}'s images, so that none is accepted: {why}")
                continue
            ranges.append(entry)
    write_json(path, {"schema_version": 1, "appearance": list(PARTS), "ranges": ranges})


def digest_of(data: dict[str, Any], domain: str, framing: str | None) -> str:
    """The digest of a domain's prepared images, from `data.json`."""
    shown = data["framings"][framing] if framing else data
    return shown["domains"][domain]["digest"]


def read_ranges(root: Path, profile: str, source: str, framing: str | None) -> list[SourceRange]:
    """The ranges of the domains that a run was trained on, in its framing.

    Raises:
        UserError: none is there, or one of other images than `data.json` tells of.
    """
    path = ranges_path(root, profile)
    advice = f"with {source}'s images here, run `wbc-shift prepare -p {profile}`"
    data = read_prepared(facts_path(root, profile))
    entries = read_kept_ranges(path) if path.exists() else []
    found = []
    for domain in sources_of(source):
        entry = next((e for e in entries if (e["source"], e["framing"]) == (domain, framing)), None)
        if entry is None:
            raise UserError(f"{path} does not say how {domain}'s own images look: {advice}")
        if entry["data"] != digest_of(data, domain, framing):
            raise UserError(f"{path}: the range of {domain} is of other images: {advice}")
        found.append(SourceRange(**{name: entry[name] for name in SourceRange.__annotations__}))
    return found


def tolerated(images: int) -> float:
    """How many images beyond the range a folder of so many may have and still be the source's."""
    return max(1, FOREIGN_SHARE * images)


def beyond(ranges: list[SourceRange], facts: np.ndarray) -> list[str]:
    """Why each image of a folder is not to be accepted; "" for an image like the source's.

    An image may be beyond the range of every domain that the network was trained on; or too many
    images of the folder are, which then shows another laboratory's cells, of which some look like
    the source's by chance.

    Args:
        facts: `appearance` of all images of the folder that can be read, [N, 8].
    """
    if not len(facts):
        return []
    distances = np.stack([own.distances(facts) / own.limit for own in ranges])
    nearest = distances.argmin(axis=0)
    outside = distances.min(axis=0) > 1
    reasons = [
        ranges[near].why(row) if out else ""
        for near, row, out in zip(nearest, facts, outside, strict=True)
    ]
    if outside.sum() > tolerated(len(facts)):
        source = " and ".join(own.source for own in ranges)
        folder = f"{outside.sum()} of the folder's {len(facts)} images are unlike {source}'s"
        reasons = [reason or folder for reason in reasons]
    return reasons
