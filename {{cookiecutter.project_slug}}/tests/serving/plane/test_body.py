from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import httpx
import pytest

from project.settings import Settings

PATH = "/v1/predict"


def test_packed_bodies(client: httpx.Client, row: dict[str, Any], needs_extra: Any) -> None:
    body = json.dumps({"row": row}).encode()
    packed = {"gzip": gzip.compress(body), "deflate": zlib.compress(body)}
    packed["zstd"] = needs_extra("zstandard").ZstdCompressor().compress(body)
    for coding, content in packed.items():
        for sent in (content, (content[place : place + 5] for place in range(0, len(content), 5))):
            answer = client.post(PATH, content=sent, headers={"Content-Encoding": coding})
            assert answer.status_code == 200, (coding, answer.text)


def test_an_unknown_packing(client: httpx.Client) -> None:
    answer = client.post(PATH, content=b"x", headers={"Content-Encoding": "br"})
    assert (answer.status_code, answer.json()["code"]) == (415, "content-encoding")
    assert "gzip" in answer.json()["detail"]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_what_is_not_packed_as_it_says(
    client: httpx.Client, row: dict[str, Any], coding: str, needs_extra: Any
) -> None:
    body = json.dumps({"row": row}).encode()
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}.get(coding)
    whole = pack(body) if pack else needs_extra("zstandard").ZstdCompressor().compress(body)
    for content in (body, whole[:-6], b"", whole[:20] + b"\xff\xff" + whole[22:]):
        answer = client.post(PATH, content=content, headers={"Content-Encoding": coding})
        assert (answer.status_code, answer.json()["code"]) in ((400, "content-encoding"), (400, "malformed")), content
    assert client.post(PATH, json={"row": row}).status_code == 200


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
def test_a_bomb_is_refused_before_it_goes_off(champion: Settings, serving: Any, coding: str, needs_extra: Any) -> None:
    body = b" " * 300_000_000
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}.get(coding)
    bomb = pack(body) if pack else needs_extra("zstandard").ZstdCompressor().compress(body)
    small = champion.serving.model_copy(update={"max_body_mb": 1})
    with serving(champion.model_copy(update={"serving": small})) as client:
        answer = client.post(PATH, content=bomb, headers={"Content-Encoding": coding})
        assert (answer.status_code, answer.json()["code"]) == (413, "too-large")
