"""A page as PDF, by Qt's rich text, which is part of every Slicer."""

from __future__ import annotations

from pathlib import Path

import qt
from JointRegSegLib.errors import OutputError

#: Dots per inch, at which lengths in the page are pixels; margins in mm.
RESOLUTION, MARGIN = 96, 12.0
#: Whatever colors the application has.
STYLE = "* { color: #000000; } body { font-family: sans-serif; font-size: 8pt; } h1 { font-size: 14pt; }"


def write_pdf(html: str, path: str | Path) -> None:
    """Write a page on A4 sheets.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    writer = qt.QPdfWriter(str(path))
    writer.setResolution(RESOLUTION)
    writer.setPageSize(qt.QPageSize(qt.QPageSize.A4))
    writer.setPageMargins(qt.QMarginsF(MARGIN, MARGIN, MARGIN, MARGIN), qt.QPageLayout.Millimeter)
    sheet = writer.pageLayout().paintRectPixels(RESOLUTION)
    width, height = float(sheet.width()), float(sheet.height())
    document = qt.QTextDocument()
    document.setDefaultStyleSheet(STYLE)
    document.setDocumentMargin(0)
    document.documentLayout().setPaintDevice(writer)
    document.setHtml(html)
    document.setPageSize(qt.QSizeF(width, height))
    painter = qt.QPainter()
    if not painter.begin(writer):
        raise OutputError(f"{path}: cannot be written; check space and permissions")
    for page in range(document.pageCount()):
        if page:
            writer.newPage()
        painter.save()
        painter.translate(0.0, -page * height)
        document.drawContents(painter, qt.QRectF(0.0, page * height, width, height))
        painter.restore()
    painter.end()
