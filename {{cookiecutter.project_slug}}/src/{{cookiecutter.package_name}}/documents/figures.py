"""Mermaid diagrams as figures that every format can hold, drawn without a browser."""

from __future__ import annotations

import hashlib
import html
import json
import re
from pathlib import Path

from ..errors import ProjectError
from .words import STYLE

SCALE = 0.72  # of Mermaid's 16 pixel text to that of a page
LABEL = re.compile(r'<foreignObject[^>]*width="([\d.]+)" height="([\d.]+)"[^>]*>(.*?)</foreignObject>', re.DOTALL)


def draw(source: str, folder: Path) -> Path:
    """Draw a Mermaid diagram as SVG with real text, and as PNG beside it; a picture drawn before is reused.

    Args:
        source: Mermaid.
        folder: where the pictures are kept, named by their content.

    Returns:
        Path of the SVG; the PNG has the same name.

    Raises:
        ProjectError: Mermaid does not understand it.
    """
    config = (STYLE / "mermaid.json").read_text(encoding="utf-8")
    name = hashlib.sha256(f"{config}{SCALE}{source}".encode()).hexdigest()[:16]
    path = folder / f"{name}.svg"
    if path.is_file() and path.with_suffix(".png").is_file():
        return path
    import mermaidx

    try:
        picture = mermaidx.render(source, config=json.loads(config))
        svg = LABEL.sub(_text, picture.svg()).replace("my-svg", f"figure-{name}")
        png = picture.png(scale=2, background="#ffffff")
    except RuntimeError as error:
        raise ProjectError(f"the diagram cannot be drawn: {str(error).splitlines()[0]}") from None
    if box := re.search(r'viewBox="[-\d.]+ [-\d.]+ ([\d.]+) ([\d.]+)"', svg):
        size = f'width="{float(box[1]) * SCALE:.0f}" height="{float(box[2]) * SCALE:.0f}"'
        svg = svg.replace('width="100%"', size, 1)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(svg, encoding="utf-8")
    path.with_suffix(".png").write_bytes(png)
    return path


def _text(label: re.Match[str]) -> str:
    """Turn an HTML label into SVG text: PDF writers drop HTML, and Mermaid's own SVG labels take ten times as long."""
    from mermaidx.font_metrics import get_font

    measure = get_font("normal").measure
    width, height, inner = float(label[1]), float(label[2]), label[3]
    lines: list[str] = []
    for part in re.split(r"<br\s*/?>|</p>", inner):
        line = ""
        for word in re.sub(r"<[^>]+>", "", part).split():
            if line and measure(html.unescape(f"{line} {word}"), 16.0)["width"] > width + 1:
                lines.append(line)
                line = ""
            line = f"{line} {word}".strip()
        lines += [line] if line else []
    colour = re.search(r"[\";\s]color:\s*([#\w]+(?:\([^)]*\))?)", inner)
    style = f' style="stroke:none;fill:{colour[1]}"' if colour else ""
    step = height / max(len(lines), 1)
    spans = [f'<tspan x="{width / 2:g}" y="{step * (at + 0.72):g}">{line}</tspan>' for at, line in enumerate(lines)]
    back = f'<rect width="{width:g}" height="{height:g}" style="fill:#ffffff;opacity:0.85"/>'
    text = f'<text text-anchor="middle"{style}>{"".join(spans)}</text>'
    return back + text if "edgeLabel" in inner and lines else text
