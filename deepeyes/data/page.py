"""`--page`: one HTML file with the tables, and rows with their pictures to look at."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader
from PIL import Image

from deepeyes.data.answers import KINDS
from deepeyes.data.converting import convert_rows
from deepeyes.data.telling import facts_of
from deepeyes.dataset.loading import load
from deepeyes.dataset.pictures import image_of, read_image
from deepeyes.dataset.reading import read_rows
from deepeyes.errors import DataFileError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from deepeyes.data.findings import FileReport

SHOWN = 6
"""Rows that are shown of each kind of answer in each source, spread over the files, and of each finding."""
THUMBNAIL = 360  # pixels a side


@dataclass(frozen=True)
class Shown:
    """A row on the page.

    Attributes:
        place: File and row number.
        question: As the judge reads it.
        reference: The right answer.
        kind: What kind of answer that is.
        picture: A data URI, or an empty text where there is none to be read.
        size: Width and height in pixels, in words.
        larger: Whether the picture has more pixels than its view.
    """

    place: str
    question: str
    reference: str
    kind: str
    picture: str
    size: str
    larger: bool


@dataclass(frozen=True)
class Finding:
    """A finding on the page, with the first of its rows."""

    title: str
    text: str
    count: int
    rows: list[Shown]


def write_page(path: Path, reports: Sequence[FileReport], max_pixels: int) -> None:
    """Writes the page.

    Raises:
        DataFileError: It can't be written there.
    """
    samples = _samples(reports)
    findings = _findings(reports)
    wanted = {place for places in samples.values() for place in places}
    wanted |= {place for _, _, _, places in findings for place in places}
    shown = dict(_read(reports, wanted))
    environment = Environment(loader=PackageLoader("deepeyes.data", ""), autoescape=True, trim_blocks=True)
    text = environment.get_template("page.html").render(
        facts=facts_of(reports),
        kinds=KINDS,
        files=reports,
        max_pixels=max_pixels,
        findings=[Finding(title, text, count, [shown[p] for p in places]) for title, text, count, places in findings],
        samples={source: [shown[place] for place in places] for source, places in samples.items()},
    )
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataFileError(f"--page {path} can't be written: {error}") from error


def _samples(reports: Sequence[FileReport]) -> dict[str, list[tuple[int, int]]]:
    """Chooses rows that are kept, by source and kind of answer, evenly over the files."""
    rows: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for file, report in enumerate(reports):
        dropped = report.dropped
        for row, (source, kind) in enumerate(zip(report.columns.sources, report.columns.kinds, strict=True)):
            if row not in dropped:
                rows[source, kind].append((file, row))
    samples: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for (source, _), places in sorted(rows.items()):
        samples[source] += places[:: max(1, len(places) // SHOWN)][:SHOWN]
    return samples


def _findings(reports: Sequence[FileReport]) -> list[tuple[str, str, int, list[tuple[int, int]]]]:
    found: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for file, report in enumerate(reports):
        for title, groups in (
            ("to drop", report.problems),
            ("mended by --out", report.mended),
            ("remark", report.notes),
        ):
            for text, group in groups.items():
                found[title, text] += [(file, row) for row in group.rows]
    return [(title, text, len(places), places[:SHOWN]) for (title, text), places in found.items()]


def _read(reports: Sequence[FileReport], wanted: set[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], Shown]]:
    for file, report in enumerate(reports):
        number = 0
        for rows in convert_rows(read_rows(report.path), report.convert):
            for row in rows:
                if (file, number) in wanted:
                    yield (file, number), _show(report, number, row)
                number += 1


def _show(report: FileReport, number: int, row: Any) -> Shown:
    fields = load(row).row if isinstance(row, dict) else {}
    extra, reward = (fields[k] if isinstance(fields.get(k), dict) else {} for k in ("extra_info", "reward_model"))
    images = fields.get("images")
    entry = image_of(images[0]) if isinstance(images, list) and images else None
    picture, size = thumbnail(entry) if entry is not None else ("", "no picture")
    question, reference = str(extra.get("question") or ""), str(reward.get("ground_truth") or "")
    kind, larger = report.columns.kinds[number], bool(report.columns.larger[number])
    return Shown(f"{report.path.name}, row {number}", question, reference, kind, picture, size, larger)


def thumbnail(image: bytes | str) -> tuple[str, str]:
    """Returns a small picture as a data URI, and the size of the whole one in words."""
    try:
        with Image.open(io.BytesIO(read_image(image))) as opened:
            size = f"{opened.width} x {opened.height}"
            opened.thumbnail((THUMBNAIL, THUMBNAIL))
            buffer = io.BytesIO()
            opened.convert("RGB").save(buffer, "JPEG", quality=80)
    except Exception:  # noqa: BLE001 - Pillow's readers raise anything on damaged bytes; the finding says what
        return "", "not to be read"
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}", size
