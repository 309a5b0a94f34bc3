from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from project.dashboard.pages import router, vega
from project.serving.app import Service
from project.serving.pages import application
from project.settings import Settings

from .conftest import Log


@contextmanager
def client(settings: Settings) -> Iterator[TestClient]:
    app = FastAPI()
    app.include_router(router(settings))
    with TestClient(app) as found:
        yield found


class Page(HTMLParser):
    """Counts what a strict policy would refuse, and what an accessible page has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.inline: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.addresses += [value for key in ("src", "href") if (value := given.get(key))]
        self.inline += [key for key in given if key == "style" or key.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)


def test_the_root_leads_to_the_page(settings: Settings) -> None:
    with client(settings) as http:
        assert http.get("/").url.path == "/status"


def test_redirects_name_no_host_which_a_proxy_may_have_another_of(settings: Settings) -> None:
    pages = ("project.dashboard.pages", "project.documents.pages")
    with TestClient(application(settings, pages), follow_redirects=False) as http:
        for path in ("/", "/documents"):
            answer = http.get(path, headers={"x-forwarded-proto": "https", "x-forwarded-host": "elsewhere.example"})
            assert answer.is_redirect
            assert "//" not in answer.headers["location"]
        assert http.get("/status/").status_code == 404


def test_wrong_methods_are_told_which_are_right(settings: Settings) -> None:
    with TestClient(Service(settings, ["project.dashboard.pages"]), "http://localhost") as http:
        assert http.options("/status").status_code == 204
        for path in ("/status", "/status/runs/none"):
            answer = http.post(path)
            assert (answer.status_code, answer.json()["code"]) == (405, "method")
            assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
        assert http.post("/nowhere").status_code == 404


def test_the_page_keeps_its_own_policy(busy: Settings) -> None:
    with client(busy) as http:
        answer = http.get("/status")
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'self'" in policy
        page = Page(answer.text)
        assert page.inline == []
        assert not [address for address in page.addresses if "//" in address]
        for address in page.addresses:
            if address.startswith("static/") and "vega" not in address:
                found = http.get(f"/{address}")
                assert found.status_code == 200
                assert "immutable" in found.headers["cache-control"]


def test_the_page_is_whole_without_scripts(busy: Settings) -> None:
    with client(busy) as http:
        text = http.get("/status", params={"range": "1h"}).text
    page = Page(text)
    assert {"main", "h1", "h2", "h3", "caption", "noscript", "nav", "footer"} <= set(page.tags)
    assert "496" in text  # requests
    assert re.search(r'<a href="\?range=1h" aria-current="true">', text)
    assert "&lt;b&gt;better&lt;/b&gt;" in text  # words of people are text, never markup
    assert "nan" not in re.sub(r"<[^>]+>", " ", text).lower().split()


def test_the_page_of_an_empty_project_says_what_to_do(settings: Settings) -> None:
    with client(settings) as http:
        text = http.get("/status").text
    assert '<strong class="pill down">down</strong>' in text
    assert "model import PATH --sample ROWS.csv</code>" in text
    assert "No run yet" in text
    empty = re.findall(r'<p class="empty">(.*?)</p>', text)
    assert len(empty) > 6  # in the place of every chart and table
    assert all(len(sentence) > 20 for sentence in empty)
    assert "pipeline run" in text


def test_the_page_opens_when_the_store_does_not(champion: Settings) -> None:
    for path in champion.path("data").glob("store.db*"):
        path.unlink()
    champion.path("data/store.db").mkdir(parents=True)
    with client(champion) as http:
        answer = http.get("/status")
        assert answer.status_code == 200
        assert "cannot be used" in answer.text
        assert http.get("/status/data.json").json()["status"]["state"] == "down"


def test_data_follow_the_log(busy: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("project.dashboard.pages.FRESH", 0.0)
    with client(busy) as http:
        before = http.get("/status/data.json", params={"range": "1h"}).json()
        log = Log(busy)
        log.traffic(1, 200, 1000)
        log.store.close()
        after = http.get("/status/data.json", params={"range": "1h"}).json()
    assert "1,496" in after["parts"]["figures"]
    assert after["parts"]["tables"] == before["parts"]["tables"]  # what is the same is not drawn again
    assert list(after["charts"]) == list(before["charts"])
    assert after["status"]["champion"]["version"] in after["parts"]["head"]


def test_viewers_share_a_reading(busy: Settings) -> None:
    with client(busy) as http:
        first = http.get("/status/data.json").json()["status"]["time"]
        assert http.get("/status/data.json").json()["status"]["time"] == first


def test_an_unknown_range_is_the_usual_one(settings: Settings) -> None:
    with client(settings) as http:
        assert http.get("/status/data.json", params={"range": "<x>"}).json()["status"]["hours"] == 24


def test_static_files_are_only_those(settings: Settings) -> None:
    with client(settings) as http:
        for name in ("dashboard.py", "..%2Fpage.py", "status.html"):
            assert http.get(f"/static/{name}").status_code == 404


def test_the_chart_library_is_made_once_and_mended(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def bundle(snippet: str) -> str:
        made.append(snippet)
        return "window.vegaEmbed = 1;"

    monkeypatch.setattr("vl_convert.javascript_bundle", bundle)
    with client(settings) as http:
        plain = http.get("/static/vega.js", headers={"Accept-Encoding": "identity"})
        zipped = http.get("/static/vega.js", headers={"Accept-Encoding": "gzip"})
    assert plain.text == zipped.text == "window.vegaEmbed = 1;"
    assert zipped.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert gzip.decompress(vega(settings)) == plain.content
    assert len(made) == 1
    cached = next(settings.path("data/cache").iterdir())
    cached.write_bytes(cached.read_bytes()[:-9])  # a copy that was cut short
    vega(settings)
    assert len(made) == 2


@pytest.mark.slow
def test_the_chart_library_holds_what_the_page_calls(settings: Settings) -> None:
    with client(settings) as http:
        page = http.get("/static/dashboard.js").text
    script = gzip.decompress(vega(settings)).decode()
    assert set(re.findall(r"window\.(\w+)", page)) == {"vegaEmbed"}
    assert "window.vegaEmbed=" in script.replace(" ", "")
