"""Gallery: confident errors and the prepared images in, one page that shows them out.

The page holds third-party images: it stays on the machine that made it and is not for git.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from benchmark.audit.images import address
from benchmark.data.arrays import PreparedImages
from benchmark.evaluation.experiments import load_experiments
from benchmark.files import write_text
from benchmark.report.confident_errors import MOST_PICTURES, Mistakes, confident_errors
from benchmark.study.plan import profile_folder
from benchmark.texts import templates_beside


def write_gallery(root: Path, profile: str, run_id: str | None = None) -> Path:
    """Write `results/<profile>/gallery/<run>.html`.

    Args:
        run_id: the run whose errors are shown; without it, those of the report: all runs vote.

    Raises:
        UserError: no such run; its predictions or the prepared images are not here.
    """
    results = profile_folder(root, profile)
    experiments = load_experiments(results)
    found = confident_errors(results, experiments, run_id, MOST_PICTURES)
    images = PreparedImages(root, profile, list(experiments[0].classes))
    text = (
        templates_beside(__file__)
        .get_template("gallery.html.jinja")
        .render(
            what=run_id or f"all runs of {profile}",
            sets=[(one, list(zip(one.shown, pictures(images, one), strict=True))) for one in found],
        )
    )
    path = results / "gallery" / f"{(run_id or 'all').replace('/', '__')}.html"
    write_text(path, text)
    return path


def pictures(images: PreparedImages, found: Mistakes) -> list[str]:
    """The address of each picture shown."""
    whole = images.test_set(found.domain, found.part)
    places = {name: place for place, name in enumerate(whole.table["image"])}
    return [address(Image.fromarray(whole.pixels[places[one.image]])) for one in found.shown]
