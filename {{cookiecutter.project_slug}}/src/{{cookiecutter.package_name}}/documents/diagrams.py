"""Pictures of what is deployed: Mermaid from the settings, and Mermaid to figures without a browser."""

from __future__ import annotations

import hashlib
import html
import re
from pathlib import Path

from ..errors import ProjectError
from ..settings import Settings
from .words import Words

COLOURS = {"person": "#0b3a66", "system": "#1168bd", "container": "#3d7fc1", "data": "#5b6b7b", "outside": "#8a8f98"}
FONT = '"DejaVu Sans", Verdana, Arial, sans-serif'
CONFIG = {
    "theme": "base",
    "themeVariables": {"fontFamily": FONT, "primaryColor": "#eef3f8", "lineColor": "#5b6b7b", "clusterBkg": "#f6f8fa"},
    "flowchart": {"htmlLabels": True, "padding": 8, "nodeSpacing": 28, "rankSpacing": 52, "wrappingWidth": 165},
}
SCALE = 0.72  # of Mermaid's 16 pixel text to that of a page
LABEL = re.compile(r'<foreignObject([^>]*)width="([\d.]+)" height="([\d.]+)"[^>]*>(.*?)</foreignObject>', re.DOTALL)


class Sketch:
    """A flowchart under construction: nodes in the style of C4, and the arrows between them."""

    def __init__(self, direction: str, words: Words) -> None:
        """Begin an empty chart; labels go through ``words``."""
        self.lines = [f"flowchart {direction}"]
        self.words = words

    def node(self, name: str, kind: str, title: str, technology: str, text: str) -> None:
        """Add a box: a person, system, container, store of data, or something outside."""
        shown = [_plain(self.words(title)), f"[{_plain(technology)}]" if technology else "", _plain(self.words(text))]
        left, right = ("[(", ")]") if kind == "data" else ("(", ")") if kind == "person" else ("[", "]")
        self.lines.append(f'    {name}{left}"{"<br/>".join(filter(None, shown))}"{right}:::{kind}')

    def arrow(self, start: str, end: str, text: str) -> None:
        """Add an arrow with a label."""
        self.lines.append(f'    {start} -->|"{_plain(self.words(text))}"| {end}')

    def group(self, name: str, title: str) -> None:
        """Begin a box around the nodes that follow, up to `close`."""
        self.lines.append(f'    subgraph {name}["{_plain(title)}"]')

    def close(self) -> None:
        """End the box."""
        self.lines.append("    end")

    def markdown(self, caption: str) -> str:
        """Return a fenced block and its caption."""
        styles = [
            f"    classDef {name} fill:{colour},stroke:{colour},color:#ffffff" for name, colour in COLOURS.items()
        ]
        used = [line for line in styles if any(f":::{line.split()[1]}" in other for other in self.lines)]
        return "\n".join(
            ["```mermaid", *self.lines, *used, "```", "", f"{self.words('Figure')}: {self.words(caption)}"]
        )


def context(settings: Settings, words: Words) -> str:
    """Return the C4 context view: who uses the system, and what stands around it."""
    sketch, mode = Sketch("TB", words), settings.project.mode
    sketch.node("team", "person", "Data science team", "", "trains, imports and promotes models")
    sketch.node("operators", "person", "Operators", "", "watch the system and act on alerts")
    sketch.node("reviewers", "person", "Reviewers", "", "read and sign the documents")
    sketch.node("system", "system", settings.project.title, "", settings.project.description)
    sketch.arrow("team", "system", "model and sample rows")
    sketch.arrow("operators", "system", "status page")
    sketch.arrow("reviewers", "system", "documents")
    if mode != "batch":
        sketch.node("consumers", "outside", "Applications", "", "web sites, spreadsheets, dashboards, back ends")
        sketch.arrow("system", "consumers", "answers requests, takes feedback (HTTP, JSON)")
    if mode != "real-time":
        sketch.node("files", "outside", "Data platform", "", "new rows in, predictions out")
        sketch.arrow("system", "files", "reads and publishes files (CSV, Parquet)")
    sketch.node("prometheus", "outside", "Monitoring system", "", "collects metrics, sends alerts")
    sketch.arrow("system", "prometheus", "gives its metrics")
    return sketch.markdown("System context")


def containers(settings: Settings, words: Words) -> str:
    """Return the C4 container view: the parts that run or hold data, and how they talk."""
    sketch, mode = Sketch("TB", words), settings.project.mode
    store = settings.store.url.partition(":")[0].partition("+")[0]
    store = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}.get(store, store)
    sketch.node("people", "person", "People and applications", "", "ask, watch, read")
    sketch.group("system", f"{settings.project.title} [{settings.project.target}]")
    sketch.node(
        "service",
        "container",
        "Service",
        "FastAPI",
        "predictions, status page, documents" if mode != "batch" else "status page, documents",
    )
    if mode != "real-time":
        sketch.node("pipeline", "container", "Batch pipeline", "polars", "validates, quarantines, scores, publishes")
    sketch.node("monitor", "container", "Monitoring", "NumPy, SciPy", "drift, data quality, error against feedback")
    sketch.node("registry", "data", "Model registry", settings.models.folder.as_posix(), "immutable bundles, aliases")
    sketch.node("store", "data", "Log", store, "predictions, feedback, runs, checks")
    sketch.close()
    sketch.arrow("people", "service", "HTTP")
    sketch.arrow("service", "registry", "champion")
    sketch.arrow("service", "store", "events")
    if mode != "real-time":
        sketch.node("files", "outside", "Data platform", "CSV, Parquet", "new rows in, predictions out")
        sketch.arrow("pipeline", "files", "files")
        sketch.arrow("pipeline", "registry", "champion")
        sketch.arrow("pipeline", "store", "runs")
    sketch.arrow("monitor", "store", "checks")
    return sketch.markdown("Containers")


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
    name = hashlib.sha256(f"{CONFIG}{COLOURS}{SCALE}{source}".encode()).hexdigest()[:16]
    path = folder / f"{name}.svg"
    if path.is_file() and path.with_suffix(".png").is_file():
        return path
    import mermaidx

    try:
        picture = mermaidx.render(source, config=CONFIG)
        svg = _texts(picture.svg()).replace("my-svg", f"figure-{name}")
        png = picture.png(scale=2, background="#ffffff")
    except RuntimeError as error:
        raise ProjectError(f"the diagram cannot be drawn: {str(error).splitlines()[0]}") from None
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(svg, encoding="utf-8")
    path.with_suffix(".png").write_bytes(png)
    return path


def _plain(text: str) -> str:
    """Write everything that Mermaid or HTML could take for syntax as a character code."""
    return re.sub(r"[^\w\s.,:()/%'’-]", lambda found: f"#{ord(found[0])};", " ".join(text.split()))


def _texts(svg: str) -> str:
    """Turn HTML labels into SVG text: PDF writers drop HTML, and Mermaid's own SVG labels take five times as long."""
    from mermaidx.font_metrics import get_font

    measure = get_font("normal").measure

    def text(found: re.Match[str]) -> str:
        width, height, inner = float(found[2]), float(found[3]), found[4]
        lines: list[str] = []
        for part in re.split(r"<br\s*/?>|</p>", inner):
            words = re.sub(r"<[^>]+>", "", part).split()
            for index, word in enumerate(words):
                longer = f"{lines[-1]} {word}" if index else word
                fits = index and measure(html.unescape(longer), 16.0)["width"] <= width + 1
                lines[len(lines) - 1 if fits else len(lines) :] = [longer if fits else word]
        colour = re.search(r"[\";\s]color:\s*([#\w]+(?:\([^)]*\))?)", inner)
        style = f' style="stroke:none;fill:{colour[1]}"' if colour else ""
        back = f'<rect width="{found[2]}" height="{found[3]}" style="fill:#ffffff;opacity:0.85"/>'
        step = height / max(len(lines), 1)
        spans = "".join(
            f'<tspan x="{width / 2:g}" y="{step * (index + 0.72):g}">{line}</tspan>' for index, line in enumerate(lines)
        )
        return (back if "edgeLabel" in inner and lines else "") + f'<text text-anchor="middle"{style}>{spans}</text>'

    svg = LABEL.sub(text, svg)
    if box := re.search(r'viewBox="[-\d.]+ [-\d.]+ ([\d.]+) ([\d.]+)"', svg):
        size = f'width="{float(box[1]) * SCALE:.0f}" height="{float(box[2]) * SCALE:.0f}"'
        svg = svg.replace('width="100%"', size, 1)
    return svg
