from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from project.errors import ProjectError
from project.serving.answers import Answer, Call, Coming
from project.serving.app import Service
from project.settings import Settings
from project.telemetry.traces import Tracer

PATH = "/v1/predict"


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def test_a_request_is_traced_with_its_stages(
    collector: Any, champion: Settings, serving: Any, row: dict[str, Any]
) -> None:
    parent = {"traceparent": "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"}
    with serving(champion) as client:
        made = client.post(PATH, json={"row": row}, headers=parent).json()
        client.post(PATH, json={"row": {}})
    names = {span.name for span in collector.spans}
    assert names == {"POST /v1/predict", "validate", "score", "encode"}
    roots = [span for span in collector.spans if span.name == "POST /v1/predict"]
    good = next(span for span in roots if span.trace_id.hex() == "ab" * 16)
    assert good.parent_span_id.hex() == "cd" * 8
    told = attributes(good)
    assert told["http.response.status_code"] == 200
    assert told["prediction.id"] == made["id"]
    assert told["model.version"] == made["model_version"]
    stages = [span for span in collector.spans if span.parent_span_id == good.span_id]
    assert [span.name for span in stages] == ["validate", "score", "encode"]
    times = [moment for span in stages for moment in (span.start_time_unix_nano, span.end_time_unix_nano)]
    assert times == sorted(times)
    assert good.start_time_unix_nano <= times[0]
    assert times[-1] <= good.end_time_unix_nano
    bad = next(span for span in roots if span is not good)
    assert attributes(bad)["http.response.status_code"] == 422
    resource = {one.key: one.value.string_value for one in collector.resources[0].resource.attributes}
    assert resource["service.name"] == champion.project.slug


def test_each_request_of_a_turn_has_its_own_trace(
    collector: Any, champion: Settings, row: dict[str, Any], until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    body = json.dumps({"row": row}).encode()

    async def main() -> list[Answer]:
        service = Service(champion)
        path, route = service.short[b"POST", PATH.encode()]
        async with service.state.running():
            calls = [Call("POST", content, {}, b"", time.perf_counter()) for content in (body, b'{"row": {}}', body)]
            coming = [service.respond(path, route, call) for call in calls]
            assert [type(one) for one in coming] == [Coming] * 3
            return [await one for one in coming if isinstance(one, Coming)]

    answers = asyncio.run(main())
    until(lambda: len(collector.spans) == 9)
    traces: dict[str, list[Any]] = {}
    for span in collector.spans:
        traces.setdefault(span.trace_id.hex(), []).append(span)
    told = [({span.name for span in trace[:-1]}, attributes(trace[-1])) for trace in traces.values()]
    found = {one.get("prediction.id"): (one["http.response.status_code"], stages) for stages, one in told}
    good = [json.loads(answer.body)["id"] for answer in answers if answer.status == 200]
    stages = {"validate", "score", "encode"}
    assert found == {good[0]: (200, stages), good[1]: (200, stages), None: (422, set())}


def test_a_trace_of_thousands_of_stages_arrives_whole(collector: Any, champion: Settings) -> None:
    tracer = Tracer(champion)
    tracer.record("pipeline run", 0, 9_000, {}, [("score", n, n + 1, {"chunk": n}) for n in range(5_000)], failed=False)
    tracer.close()
    assert sorted(attributes(span).get("chunk", -1) for span in collector.spans) == list(range(-1, 5_000))
    assert len(collector.resources) == 10


def test_the_caller_decides_what_is_sampled(
    collector: Any, champion: Settings, serving: Any, row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    with serving(champion) as client:
        for flag in ("00", "01"):
            client.post(PATH, json={"row": row}, headers={"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-{flag}"})
        client.post(PATH, json={"row": row}, headers={"traceparent": "nonsense"})
        client.post(PATH, json={"row": row})
    assert [span.name for span in collector.spans].count("POST /v1/predict") == 1


def test_a_sampler_that_is_none(collector: Any, champion: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, share in (("sometimes", "1"), ("traceidratio", "2"), ("traceidratio", "x")):
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", name)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", share)
        with pytest.raises(ProjectError, match="OTEL_TRACES_SAMPLER"):
            Service(champion)


def test_without_a_collector_there_are_none(champion: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert not Tracer(champion).on
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert not Tracer(champion).on
