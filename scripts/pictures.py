"""Take the pictures of README and docs from the running product: `make demo DETACH=1` first, then `make pictures`.

Needs Chromium and pdftoppm.
"""

import argparse
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from playwright.sync_api import FloatRect, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ROOT / "build/demo/bike-demand"
PICTURES = ROOT / "docs/pictures"
PORT = 8765
TOP: FloatRect = {"x": 0, "y": 0, "width": 1280, "height": 1600}
WAIT = 60.0


def ready(port: int) -> bool:
    """Return whether the service predicts."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def shoot(page: Page, base: str) -> None:
    """Take a picture of each page."""
    page.goto(f"{base}/status?range=24h")
    page.wait_for_selector("main svg")
    page.wait_for_timeout(1500)  # charts are drawn one after the other
    for scheme, name in (("light", "status"), ("dark", "status-dark")):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.wait_for_timeout(500)
        page.screenshot(path=PICTURES / f"{name}.png", clip=TOP, full_page=True)
    page.emulate_media(color_scheme="light")
    page.goto(f"{base}/docs")
    page.get_by_text("/v1/predict").first.wait_for()
    page.screenshot(path=PICTURES / "api.png")


def main() -> int:
    """Serve the demo project, take the pictures, stop; return the exit code."""
    argparse.ArgumentParser(description="Take the pictures of README and docs.").parse_args()
    chromium = shutil.which("chromium")
    if chromium is None or shutil.which("pdftoppm") is None:
        print("error: chromium and pdftoppm are needed: .ci/run says which packages have them", file=sys.stderr)
        return 1
    tool = PROJECT / ".venv/bin/bike-demand"
    if not tool.is_file():
        print("error: there is no demo project: run `make demo DETACH=1` first", file=sys.stderr)
        return 1
    PICTURES.mkdir(parents=True, exist_ok=True)
    report = PROJECT / "build/documents/final-model-report.pdf"
    for page, name in ((1, "report-cover"), (4, "report-page")):
        pages = ["-f", str(page), "-l", str(page), "-r", "70", "-png", "-singlefile"]
        subprocess.run(["pdftoppm", *pages, report, PICTURES / name], check=True)
    service = subprocess.Popen([tool, "serve", "--port", str(PORT)], cwd=PROJECT, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + WAIT
        while not ready(PORT):
            if time.monotonic() > deadline:
                print("error: the service did not become ready", file=sys.stderr)
                return 1
            time.sleep(0.2)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            shoot(browser.new_page(viewport={"width": 1280, "height": 900}), f"http://127.0.0.1:{PORT}")
            browser.close()
    finally:
        service.terminate()
        service.wait(30)
    print(f"pictures in {PICTURES.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
