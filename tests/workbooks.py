"""Reads an Excel workbook as a person sees it: sheets of cells, each a number, a text or a formula."""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import dataclass, field
from xml.etree import ElementTree

_NS = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


@dataclass
class Sheet:
    """``rows[0][0]`` is A1. A number is a float, nothing is None."""

    rows: list[list[float | str | None]] = field(default_factory=list)
    formulas: int = 0
    frozen: bool = False
    widths: int = 0

    def table(self) -> list[dict[str, float | str | None]]:
        """The rows below the header, by its titles."""
        titles = [str(cell) for cell in self.rows[0]]
        return [dict(zip(titles, row, strict=False)) for row in self.rows[1:]]

    def column(self, title: str) -> list[float | str | None]:
        return [row[title] for row in self.table()]


def sheets_of(content: bytes) -> dict[str, Sheet]:
    """The sheets of a workbook by name, in their order."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        shared = ElementTree.fromstring(archive.read("xl/sharedStrings.xml"))
        texts = ["".join(part.text or "" for part in item.iter(f"{_NS}t")) for item in shared]
        book = ElementTree.fromstring(archive.read("xl/workbook.xml"))
        names = [sheet.attrib["name"] for sheet in book.iter(f"{_NS}sheet")]
        return {
            name: _sheet(ElementTree.fromstring(archive.read(f"xl/worksheets/sheet{n}.xml")), texts)
            for n, name in enumerate(names, 1)
        }


def _sheet(root: ElementTree.Element, texts: list[str]) -> Sheet:
    sheet = Sheet(
        frozen=any(pane.attrib.get("state") == "frozen" for pane in root.iter(f"{_NS}pane")),
        widths=sum(int(col.attrib["max"]) - int(col.attrib["min"]) + 1 for col in root.iter(f"{_NS}col")),
        formulas=sum(1 for _ in root.iter(f"{_NS}f")),
    )
    for row in root.iter(f"{_NS}row"):
        while len(sheet.rows) < int(row.attrib["r"]):
            sheet.rows.append([])
        cells = sheet.rows[-1]
        for cell in row.iter(f"{_NS}c"):
            letters = re.sub(r"\d", "", cell.attrib["r"])
            place = sum((ord(letter) - 64) * 26**n for n, letter in enumerate(reversed(letters))) - 1
            cells += [None] * (place + 1 - len(cells))
            value = cell.find(f"{_NS}v")
            if value is not None and value.text is not None:
                cells[place] = texts[int(value.text)] if cell.attrib.get("t") == "s" else float(value.text)
    return sheet
