"""A card of each of a profile's domains, and their distances: `results/<profile>/domains/`.

`domains.json`, `distances_<of>.csv` and their figures hold numbers and are for git; `cards/` holds
montages of other publishers' images, which stay on the machine that made them.
"""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
import seaborn
from matplotlib.figure import Figure, SubFigure
from PIL import Image, ImageDraw

from benchmark.data.arrays import Images, PreparedImages, fields_path
from benchmark.data.cards import AroundCell, Card, Crop, card_of, load_label_spaces, raw_folder
from benchmark.data.fields import Square
from benchmark.data.manifests import domain_images
from benchmark.data.prepare import crop_box, crop_fraction, opened, placed
from benchmark.domains.facts import (
    COLOURS,
    Features,
    colour_vectors,
    distances,
    nucleus_diameters,
    principal_components,
)
from benchmark.drawing import IN_DOMAIN, INK, MARKS, MILLIMETRE, PAGE_WIDTH, STYLE, page, save
from benchmark.files import atomic, write_json, write_text
from benchmark.progress import say
from benchmark.settings import Params, Profile
from benchmark.study.plan import profile_folder

MONTAGE_COLUMNS = 10
CUTS = 4
"""Published images that a card shows with the square that was cut."""
CUT_HEIGHT = 240
"""Of these, in pixels."""
COMPARED = "lymphocyte"
"""The cell whose nucleus varies least between people: a scale that every laboratory has."""


def write_domain_cards(
    root: Path, params: Params, cards: dict[str, Card], name: str, features: Features | None
) -> None:
    """Write facts, distances and figures of a profile's domains.

    Args:
        features: frozen features to measure distances in, beside colour; None for colour alone.

    Raises:
        UserError: the profile is not prepared.
    """
    profile = params.profile(name)
    classes = load_label_spaces(root / "datasets")[profile.label_space]
    prepared = PreparedImages(root, name, classes)
    folder = profile_folder(root, name) / "domains"
    write_text(folder / "cards" / ".gitignore", "*\n")
    facts, colours, learnt = {}, {}, {}
    for domain in profile.domains:
        images = prepared.domain(domain)
        labels = np.array(classes)[images.labels]
        card = card_of(cards, domain)
        about = card.domains[domain]
        colours[domain] = colour_vectors(images.pixels)
        if features is not None:
            learnt[domain] = features(images.pixels)
        fractions = nucleus_diameters(images.pixels)
        sides = images.table["image"].map(crop_sides(root, profile, card, domain)).to_numpy(float)
        scale = about.micrometre_per_pixel
        facts[domain] = domain_facts(labels, classes, colours[domain], fractions, sides, scale)
        crop = about.crop_for(profile.label_space)
        asked = root / "datasets", card, domain, profile.label_space, profile.subset
        squares = squares_of(crop, domain_images(*asked), card.manifest)
        raw = raw_folder(root / "datasets", card)
        cuts = cut_squares(prepared, raw, crop, domain, images, squares)
        heading = "What was cut of the published image"
        heading += ", the least sure cells" if isinstance(crop, AroundCell) else ""
        figure = card_figure(about.title, images.pixels, labels, facts[domain], cuts, heading)
        with atomic(folder / "cards" / f"{domain}.png") as path:
            figure.savefig(path, format="png", metadata={"Software": None})
        say(f"wrote {folder / 'cards' / domain}.png")
    save(comparison_figure(facts, classes), folder / "domains")
    write_json(folder / "domains.json", {"schema_version": 1, "profile": name, "domains": facts})
    measures = {"colour": (colours, "ΔE (CIELAB)")}
    if features is not None:
        measures["features"] = (principal_components(learnt), "spreads of the first component")
    for of, (vectors, unit) in measures.items():
        table = distances(vectors)
        text = table.round(3).to_csv(index_label="domain", lineterminator="\n")
        write_text(folder / f"distances_{of}.csv", text)
        save(distance_figure(table, of, unit), folder / f"distances_{of}")
        say(f"wrote {folder}/distances_{of}.csv")


def crop_sides(root: Path, profile: Profile, card: Card, domain: str) -> dict[str, float]:
    """Path → side in published pixels of the square that was prepared; NaN where not known."""
    table = domain_images(root / "datasets", card, domain, profile.label_space, profile.subset)
    if not {"width", "height"} <= set(table):
        return dict.fromkeys(table["path"], np.nan)
    crop = card.domains[domain].crop_for(profile.label_space)
    sizes = zip(table["width"].astype(int), table["height"].astype(int), strict=True)
    sides = [crop_fraction(crop, size) * min(size) for size in sizes]
    return dict(zip(table["path"], sides, strict=True))


def squares_of(crop: Crop, table: pd.DataFrame, where: str) -> dict[str, Square]:
    """Path → the square around its box; empty where the crop is another.

    Args:
        table: of `domain_images`.
        where: its name, for messages.
    """
    squares = placed(crop, table, where)
    return dict(zip(table["path"], squares, strict=True)) if isinstance(squares, list) else {}


def cut_squares(
    prepared: PreparedImages,
    folder: Path,
    crop: Crop,
    domain: str,
    images: Images,
    squares: dict[str, Square] | None = None,
) -> list[tuple[str, Image.Image]]:
    """A few published images with the square that was cut, each beside what was cut of it.

    Of cells that had to be found, those found least surely; else every so many-th image. Images
    that are not on this machine are not shown.

    Args:
        squares: of `squares_of`.

    Returns:
        A caption and a picture `CUT_HEIGHT` px high of each.
    """
    rows = np.linspace(0, len(images) - 1, min(len(images), CUTS)).round().astype(int)
    centres, surety = {}, {}
    if isinstance(crop, AroundCell):
        fields = pd.read_parquet(fields_path(prepared.cache)).query("domain == @domain and found")
        places = {image: row for row, image in enumerate(images.table["image"])}
        least = fields.sort_values("contrast")[:CUTS]
        rows = [places[image] for image in least["image"]]
        centres = dict(zip(rows, zip(least["x"], least["y"], strict=True), strict=True))
        surety = dict(zip(rows, least["contrast"], strict=True))
    pictures = []
    for row in rows:
        name = images.table["image"].iloc[row]
        if not (folder / name).is_file():
            continue
        published = opened(folder / name, max, 0).image
        box = crop_box(published.size, crop_fraction(crop, published.size), centres.get(row))
        box = squares[name].edges if squares else box
        scale = CUT_HEIGHT / published.height
        whole = published.resize((round(published.width * scale), CUT_HEIGHT))
        ImageDraw.Draw(whole).rectangle([side * scale for side in box], outline="#00d0ff", width=3)
        square = Image.fromarray(images.pixels[row]).resize((CUT_HEIGHT, CUT_HEIGHT))
        picture = Image.new("RGB", (whole.width + 6 + CUT_HEIGHT, CUT_HEIGHT), "white")
        picture.paste(whole, (0, 0))
        picture.paste(square, (whole.width + 6, 0))
        told = f", contrast {surety[row]:.1f}" if row in surety else ""
        pictures.append((f"{Path(name).name[-30:]}{told}", picture))
    return pictures


def domain_facts(
    labels: np.ndarray,
    classes: list[str],
    colours: np.ndarray,
    fractions: np.ndarray,
    sides: np.ndarray,
    micrometre_per_pixel: float | None,
) -> dict[str, Any]:
    """The numbers of one domain's card.

    Args:
        colours: CIELAB means and spreads [N, 6].
        fractions: diameters of the nucleus as fractions of the prepared side [N].
        sides: that side in published pixels [N]; NaN where not known.
    """
    nuclei = {}
    for name in classes:
        chosen = (labels == name) & ~np.isnan(fractions)
        if not chosen.any():
            continue
        pixels = (fractions * sides)[chosen]
        known = not np.isnan(pixels).any()
        in_micrometres = known and micrometre_per_pixel is not None
        nuclei[name] = {
            "images": int(chosen.sum()),
            "of the crop's side": quartiles(fractions[chosen]),
            "px": quartiles(pixels) if known else None,
            "um": quartiles(pixels * micrometre_per_pixel) if in_micrometres else None,
        }
    means, spreads = colours.mean(axis=0), colours.std(axis=0)
    return {
        "images": len(labels),
        "classes": {name: int((labels == name).sum()) for name in classes},
        "colour": {
            column: {"mean": round(float(mean), 2), "sd": round(float(spread), 2)}
            for column, mean, spread in zip(COLOURS, means, spreads, strict=True)
        },
        "nucleus diameter, quartiles": nuclei,
    }


def quartiles(values: np.ndarray) -> list[float]:
    """First quartile, median and third quartile, to three figures."""
    return [float(f"{value:.3g}") for value in np.quantile(values, (0.25, 0.5, 0.75))]


def comparison_figure(facts: dict[str, Any], classes: list[str]) -> Figure:
    """Classes, colour and scale of all domains side by side, without an image."""
    names = list(facts)
    with matplotlib.style.context(STYLE):
        figure = page(22 + 6 * len(names))
        share, *colour, size = figure.subplots(1, 5, sharey=True, width_ratios=[2, 1, 1, 1, 1])
        left = np.zeros(len(names))
        for place, name in enumerate(classes):
            counts = [facts[domain]["classes"][name] / facts[domain]["images"] for domain in names]
            ink = MARKS[place % len(MARKS)][1]
            share.barh(names, counts, left=left, color=ink, label=name, height=0.7)
            left += counts
        share.set_title("Share of classes")
        share.set_xlim(0, 1)
        figure.legend(loc="outside lower left", ncols=len(classes))
        for axes, column in zip(colour, COLOURS[:3], strict=True):
            moments = [facts[domain]["colour"][column] for domain in names]
            means, spreads = ([m[key] for m in moments] for key in ("mean", "sd"))
            axes.errorbar(means, names, xerr=spreads, fmt="o", color=INK, markersize=3)
            axes.set_title(f"CIELAB {column.split()[0]}")
            axes.set_xlabel("mean ± SD")
        sizes = [facts[domain]["nucleus diameter, quartiles"].get(COMPARED) for domain in names]
        for domain, found in zip(names, sizes, strict=True):
            if found is not None:
                low, middle, high = found["of the crop's side"]
                spread = [[middle - low], [high - middle]]
                size.errorbar(middle, domain, xerr=spread, fmt="o", color=INK, markersize=3)
        size.set_xlim(0, 1)
        size.set_title("Nucleus")
        size.set_xlabel(f"{COMPARED}s, crop = 1")
        share.invert_yaxis()
        for axes in (*colour, size):
            axes.grid(axis="y")
    return figure


def card_figure(
    title: str,
    pixels: np.ndarray,
    labels: np.ndarray,
    facts: dict,
    cuts: list[tuple[str, Image.Image]],
    heading: str,
) -> Figure:
    """Montage by class; what was cut, under its heading; class counts, colours and sizes; 180 mm
    wide."""
    present = [name for name, number in facts["classes"].items() if number]
    montage = np.concatenate([strip(pixels[labels == name]) for name in present])
    shown = PAGE_WIDTH * 0.82 * len(present) / MONTAGE_COLUMNS + 4
    widest = max((picture.width for _, picture in cuts), default=0)
    cut = 10 + (PAGE_WIDTH - 4) / CUTS * CUT_HEIGHT / widest if cuts else 0.1
    with matplotlib.style.context(STYLE):
        figure = page(shown + cut + 48)
        top, middle, bottom = figure.subfigures(3, 1, height_ratios=[shown, cut, 48])
        draw_cuts(middle, cuts, heading)
        axes = top.subplots()
        axes.imshow(montage, interpolation="lanczos")
        side = pixels.shape[1]
        axes.set_yticks((np.arange(len(present)) + 0.5) * side, present)
        axes.set_xticks([])
        axes.spines[:].set_visible(False)
        axes.set_title(f"{title}: {facts['images']:,} images")
        counts, colour, size = bottom.subplots(1, 3)
        draw_counts(counts, present, facts)
        draw_colour(colour, pixels)
        draw_sizes(size, present, facts)
    return figure


def draw_cuts(figure: SubFigure, cuts: list[tuple[str, Image.Image]], heading: str) -> None:
    """Published images with the square that was cut, and what was cut, side by side."""
    if not cuts:
        return
    figure.suptitle(heading, x=0.01, ha="left", weight="bold")
    for axes, cut in zip_longest(figure.subplots(1, CUTS, squeeze=False)[0], cuts):
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        if cut is not None:
            axes.set_xlabel(cut[0], parse_math=False)
            axes.imshow(cut[1])


def strip(pixels: np.ndarray) -> np.ndarray:
    """One row of a montage: up to ten images, evenly spaced, white where there are fewer."""
    side = pixels.shape[1]
    row = np.full((side, MONTAGE_COLUMNS * side, 3), 255, np.uint8)
    places = np.linspace(0, len(pixels) - 1, min(len(pixels), MONTAGE_COLUMNS)).round().astype(int)
    for column, place in enumerate(places):
        row[:, column * side : (column + 1) * side] = pixels[place]
    return row


def draw_counts(axes, present: list[str], facts: dict) -> None:
    """Images per class."""
    numbers = [facts["classes"][name] for name in present]
    bars = axes.barh(present, numbers, color=IN_DOMAIN)
    axes.bar_label(bars, padding=2)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * max(numbers))
    axes.set_title("Images per class")
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)


def draw_colour(axes, pixels: np.ndarray) -> None:
    """Share of pixels at each value, by channel."""
    chosen = pixels[:: max(1, len(pixels) // 300)]
    for channel, ink in enumerate(("#D55E00", "#009E73", "#0072B2")):
        share, edges = np.histogram(chosen[..., channel], 64, (0, 256), density=True)
        axes.plot((edges[:-1] + edges[1:]) / 2, share, color=ink, label="RGB"[channel])
    axes.set_xlim(0, 255)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("value (0–255)")
    axes.legend(loc="upper left")
    axes.set_title("Share of pixels")


def draw_sizes(axes, present: list[str], facts: dict) -> None:
    """Median and quartiles of the nucleus's diameter, in the best unit known."""
    nuclei = facts["nucleus diameter, quartiles"]
    shown = [name for name in present if name in nuclei]
    units = ("um", "px", "of the crop's side")
    unit = next(u for u in units if all(nuclei[name][u] is not None for name in shown))
    low, middle, high = np.array([nuclei[name][unit] for name in shown]).T
    axes.errorbar(
        middle, shown, xerr=[middle - low, high - middle], fmt="o", color=INK, markersize=3
    )
    axes.invert_yaxis()
    axes.set_xlim(0, None)
    axes.set_xlabel({"um": "µm", "px": "published pixels"}.get(unit, unit))
    axes.set_title("Diameter of the nucleus")


def distance_figure(table: pd.DataFrame, of: str, unit: str) -> Figure:
    """The distances of domains as a shaded table; the diagonal is what chance gives."""
    with matplotlib.style.context(STYLE):
        side = (30 + 13 * len(table)) * MILLIMETRE
        figure = Figure(figsize=(side, 0.82 * side), layout="constrained")
        axes = figure.subplots()
        style = {"cmap": "cividis_r", "annot": True, "annot_kws": {"size": 7}, "vmin": 0}
        seaborn.heatmap(table, ax=axes, fmt=".1f", square=True, cbar_kws={"label": unit}, **style)
        axes.set_title(f"Fréchet distance of {of}")
        axes.tick_params(axis="x", rotation=35)
        axes.tick_params(axis="y", rotation=0)
    return figure
