"""The two commands of a fresh machine: `make demo` shows all of it, and says in a sentence what it cannot do."""

import http.client
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from support import copy_work_tree, needs
from test_projects import run
from test_real_models import service


@pytest.fixture(scope="module")
def clone(tmp_path_factory, home):
    """Return a fresh copy of the template, with nothing installed, as a repository."""
    from support import commit

    folder = copy_work_tree(tmp_path_factory.mktemp("clone") / "template")
    commit(folder, "clone")
    return folder


def variables() -> dict[str, str]:
    """The environment of a person: no shared environment, no make above."""
    hidden = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VIRTUAL_ENV", "PYTHONPATH", "CI")
    return {key: value for key, value in os.environ.items() if key not in hidden}


@pytest.mark.slow
def test_make_demo_detached_checks_everything_and_ends(clone):
    needs("make", "git", "pdftotext")
    done = subprocess.run(["make", "demo", "DETACH=1"], cwd=clone, env=variables(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for word in (
        "model promote",
        "pipeline run",
        "the truth came back",
        "documents export",
        "status page",
        "all checked",
    ):
        assert word in done.stdout
    project = clone / "build/demo/bike-demand"
    report = subprocess.run(
        ["pdftotext", project / "build/documents/final-model-report.pdf", "-"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    measured = re.search(r"measured rows \d+, mae (\d+\.\d+)", done.stdout)
    assert measured
    assert measured[1] in report


@pytest.mark.slow
def test_make_demo_stays_until_ctrl_c(clone):
    needs("make", "git")
    process = subprocess.Popen(
        ["make", "demo"],
        cwd=clone,
        env=variables(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests that a shell runs in the background ignore Ctrl-C, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    seen = ""
    try:
        while "Ctrl-C stops it." not in seen:
            line = process.stdout.readline()
            assert line, seen[-3000:]
            seen += line
        port = int(re.findall(r"status page +http://127\.0\.0\.1:(\d+)/status", seen)[-1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/status")
        assert connection.getresponse().status == 200
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
    with pytest.raises(OSError, match="refused"):
        http.client.HTTPConnection("127.0.0.1", port, timeout=5).request("GET", "/")


@pytest.fixture(scope="module")
def shown(default_project, environment, tmp_path_factory):
    """Return a project in which the demo has run."""
    project = Path(shutil.copytree(default_project, tmp_path_factory.mktemp("shown") / "bike-demand"))
    done = run(project, environment, "bike_demand", "demo", "--detach")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return project


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["batch", "real-time"])
def test_the_demo_of_the_other_modes(render, environment, tmp_path, mode):
    rendered = render({"example": "customer-churn", "prediction_mode": mode, "document_language": "fr"})
    project = Path(shutil.copytree(rendered, tmp_path / "project"))
    done = run(project, environment, "bike_demand", "demo", "--detach")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.slow
def test_the_status_page_shows_live_numbers_in_a_browser(shown, environment):
    needs("chromium")
    from playwright.sync_api import expect, sync_playwright

    with service(shown, environment) as connection, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        messages: list[str] = []
        page.on("console", lambda message: messages.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: messages.append(str(error)))
        address = f"http://127.0.0.1:{connection.port}"
        page.goto(f"{address}/status")
        expect(page.locator("main svg, main canvas").first).to_be_visible(timeout=60_000)
        assert "20,4" in page.inner_text("main")  # 19,600 of the batch and 800 of the API
        page.goto(f"{address}/docs")
        expect(page.get_by_text("/v1/predict").first).to_be_visible(timeout=60_000)
        page.goto(f"{address}/documents/")
        expect(page.locator("a", has_text="Final Model Report").first).to_be_visible()
        browser.close()
    assert messages == []


@pytest.mark.slow
def test_what_cannot_be_done_is_said_in_one_sentence(shown, environment, tmp_path):
    project = Path(shutil.copytree(shown, tmp_path / "project"))
    empty = tmp_path / "empty"
    empty.mkdir()
    (project / "data/broken.csv").write_bytes(b"\xff\xfe\x00broken")

    def refused(*words: str, **changed: str) -> str:
        done = run(project, environment, "bike_demand", *words, **changed)
        assert done.returncode != 0, done.stdout
        assert "Traceback" not in done.stderr
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, done.stderr
        return lines[0]

    with service(project, environment) as connection:
        assert "in use" in refused("serve", "--port", str(connection.port))
    assert "keys" in refused("serve", "--host", "0.0.0.0", "--port", "0")
    assert "no file" in refused("model", "import", "absent.skops", "--sample", "absent.csv")
    assert "no model version" in refused("model", "promote", "0000")
    assert "empty" in refused("pipeline", "run", "--input", str(empty), "--output", str(tmp_path / "out"))
    assert "broken.csv" in refused("pipeline", "run", "--input", "data/broken.csv", "--output", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("[!.]*"))
    assert "cannot be" in refused("monitor", "run", BIKE_DEMAND_STORE__URL="sqlite:////proc/none/store.db")
    model = next(project.glob("data/models/versions/*/model.onnx"))
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    assert "corrupt" in refused("pipeline", "run", "--input", "data/incoming", "--output", str(tmp_path / "out"))
    assert "corrupt" in refused("model", "show")
    assert run(project, environment, "bike_demand", "doctor").returncode == 1
    with service(project, environment) as connection:  # it starts, and says what is wrong
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        assert (answer.status, b"corrupt" in answer.read()) == (503, True)
