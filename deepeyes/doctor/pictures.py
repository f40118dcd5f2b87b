"""How many pictures of the data are larger than the view that the model gets of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deepeyes.dataset.loading import load
from deepeyes.dataset.pictures import image_of, look
from deepeyes.dataset.reading import DATA_SUFFIXES, read_rows
from deepeyes.doctor.data import registered_files
from deepeyes.doctor.findings import Finding, Level
from deepeyes.errors import DataFileError
from deepeyes.images.detail import Detail, view_size
from deepeyes.settings import CropSource

if TYPE_CHECKING:
    from deepeyes.doctor.plan import Plan
    from deepeyes.settings import Settings


def check_pictures(plan: Plan, settings: Settings) -> list[Finding]:
    """Measures the pictures of the first rows of every file against `--max_pixels`, and says what to set.

    It stops nothing; a file that can't be read says so elsewhere.
    """
    limit = plan.train.number("max_pixels", 0) or int(plan.train.environment.get("MAX_PIXELS") or 0)
    if settings.crop_source is CropSource.ORIGINAL or not limit:
        return []
    registered = registered_files(plan.train.get("custom_dataset_info"))
    detail = Detail()
    for name in plan.train.options.get("dataset", ()):
        path = Path(registered.get(name.partition("#")[0], name.partition("#")[0])).expanduser()
        if path.suffix not in DATA_SUFFIXES or not path.is_file():
            continue
        try:
            rows = next(read_rows(path), [])
        except DataFileError:
            continue
        images = [image for row in rows if isinstance(row, dict) for image in load(row).row.get("images") or ()]
        for fact in look([image_of(image) for image in images]):
            if fact.width:
                detail.add((fact.width, fact.height), view_size(fact.width, fact.height, limit))
    return [Finding("pictures", Level.OK, str(detail))] if str(detail) else []
