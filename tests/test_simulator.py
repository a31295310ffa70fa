"""The simulated provider, as a process, over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from apps.providers.simulated_text import compose
from tests.forks import Forked
from tests.processes import ROOT, free_port

pytestmark = pytest.mark.processes

Start = Callable[..., int]


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "manage.py"), "simulate_provider", *arguments]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a simulator with the given options on a free port, which is returned once it listens."""
    running: list[Forked] = []

    def begin(*arguments: str) -> int:
        port = free_port()
        options = ("--port", str(port), "--latency-ms", "0", *arguments)
        process = Forked("manage.py", "simulate_provider", *options, ahead=("aiohttp.web",), stdout=subprocess.PIPE)
        running.append(process)
        assert process.stdout is not None
        assert f"http://127.0.0.1:{port}/v1" in process.stdout.readline()
        return port

    yield begin
    for process in running:
        process.terminate()
        assert process.wait(10) == 0
        if process.stdout:
            process.stdout.close()


def ask(port: int, prompt: str = "Collect facts on tidal energy.", **wish: Any) -> tuple[int, dict[str, Any]]:
    body = {"model": "small", "messages": [{"role": "user", "content": prompt}], **wish}
    return call(port, "POST", "/v1/chat/completions", body)


def call(port: int, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_the_same_request_has_the_same_answer_and_usage_in_every_process(start: Start) -> None:
    first, second = start("--seed", "7"), start("--seed", "7", "--region", "elsewhere")
    (_, one), (_, other) = ask(first), ask(second)
    assert one["choices"] == other["choices"]
    assert one["usage"] == other["usage"]
    assert one["id"] == other["id"]
    assert "tidal energy" in one["choices"][0]["message"]["content"]


def test_another_seed_gives_another_answer(start: Start) -> None:
    first, second = start("--seed", "7"), start("--seed", "8")
    assert ask(first)[1]["id"] != ask(second)[1]["id"]


def test_usage_is_never_above_what_a_reservation_must_cover(start: Start) -> None:
    port = start()
    for number in range(40):
        prompt = "é" * number + "a" * (number * 7 % 50)
        _, answer = ask(port, prompt, max_completion_tokens=1 + number)
        usage, choice = answer["usage"], answer["choices"][0]
        assert usage["prompt_tokens"] <= len(prompt.encode())
        assert 1 <= usage["completion_tokens"] <= 1 + number
        assert choice["finish_reason"] == ("length" if usage["completion_tokens"] == 1 + number else "stop")
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_the_overbilling_model_reports_more_than_was_allowed(start: Start) -> None:
    _, answer = ask(start(), model="overbill", max_tokens=10)
    assert answer["usage"]["completion_tokens"] > 10


def test_models_that_fail_on_purpose_do(start: Start) -> None:
    port = start()
    assert [ask(port, model=f"fail-{kind}")[0] for kind in ("bad-request", "server", "rate-limit")] == [400, 500, 429]
    assert [ask(port, model="fail-once")[0] for _ in range(3)] == [409, 200, 200]


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"stream": True}, "does not stream"),
        ({"messages": []}, "at least one message"),
        ({"messages": "hello"}, "at least one message"),
        ({"model": None}, "model is missing"),
        ({"max_completion_tokens": 0}, "whole number above 0"),
        ({"max_tokens": "many"}, "whole number above 0"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(start: Start, wish: dict[str, Any], told: str) -> None:
    status, answer = ask(start(), **wish)
    assert status == 400
    assert told in answer["error"]["message"]


SAVE_FILE = {"type": "function", "function": {"name": "save_file", "parameters": {"type": "object"}}}


def test_it_saves_a_file_where_the_tool_and_the_prompt_say_so(start: Start) -> None:  # E8
    port = start()
    asked: list[dict[str, Any]] = [{"role": "user", "content": "Write on tidal energy. Save it as notes/brief.md."}]
    _, answer = ask(port, messages=asked, tools=[SAVE_FILE])
    choice = answer["choices"][0]
    (told,) = choice["message"]["tool_calls"]
    written = json.loads(told["function"]["arguments"])
    assert (choice["finish_reason"], told["function"]["name"], written["name"]) == (
        "tool_calls",
        "save_file",
        "notes/brief.md",
    )
    assert "tidal" in written["content"]
    asked += [choice["message"], {"role": "tool", "tool_call_id": told["id"], "content": "Saved notes/brief.md."}]
    _, answer = ask(port, messages=asked, tools=[SAVE_FILE])
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert "tidal" in answer["choices"][0]["message"]["content"]
    for wish in ({}, {"tools": [{"type": "function", "function": {"name": "other"}}]}, {"tools": "all"}):
        _, answer = ask(port, prompt="Save it as brief.md.", **wish)
        assert "tool_calls" not in answer["choices"][0]["message"]


def test_errors_come_at_the_set_rate_and_in_the_same_order_each_run(start: Start) -> None:
    runs = []
    for _ in range(2):
        port = start("--error-rate", "0.3", "--seed", "3")
        runs.append([ask(port, f"number {number}")[0] for number in range(100)])
    assert runs[0] == runs[1]
    assert 15 <= sum(status != 200 for status in runs[0]) <= 45
    assert set(runs[0]) == {200, 429, 500, 503}


def test_an_outage_drops_connections_until_it_is_ended(start: Start) -> None:
    port = start()
    assert call(port, "POST", "/simulator/outage", {"seconds": None})[1]["dark"] is True
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        ask(port)
    assert call(port, "GET", "/health")[0] == 503
    assert call(port, "POST", "/simulator/outage", {"seconds": 0})[1]["dark"] is False
    assert ask(port)[0] == 200


def test_an_outage_can_be_errors_instead(start: Start) -> None:
    port = start()
    call(port, "POST", "/simulator/outage", {"seconds": 60, "mode": "500"})
    assert ask(port)[0] == 500
    call(port, "POST", "/simulator/outage", {"seconds": 60, "mode": "429"})
    assert ask(port)[0] == 429
    assert call(port, "GET", "/v1/models")[0] == 429
    assert call(port, "POST", "/simulator/outage", {"seconds": 60, "mode": "flood"})[0] == 400


def test_a_slow_region_answers_ten_times_later(start: Start) -> None:
    port = start("--latency-ms", "30")
    call(port, "POST", "/simulator/outage", {"seconds": 60, "mode": "slow"})
    began = time.monotonic()
    assert ask(port)[0] == 200
    assert time.monotonic() - began >= 0.3


def test_statistics_add_up(start: Start) -> None:
    port = start()
    answers = [ask(port, f"number {number}")[1]["usage"] for number in range(5)]
    stats = call(port, "GET", "/simulator/stats")[1]
    assert stats["requests"] == 5
    assert stats["in_flight"] == 0
    assert stats["models"]["small"]["answers"] == 5
    assert stats["completion_tokens"] == sum(usage["completion_tokens"] for usage in answers)


def test_a_key_is_asked_for_only_when_one_was_set(start: Start) -> None:
    assert ask(start())[0] == 200
    assert ask(start("--api-key", "sesame"))[0] == 401


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once_with_calls_in_flight_and_says_nothing(number: int) -> None:
    port = free_port()
    process = subprocess.Popen(
        command("--port", str(port)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(
        "POST", "/v1/chat/completions", json.dumps({"model": "hang", "messages": [{"role": "user", "content": "?"}]})
    )
    while call(port, "GET", "/simulator/stats")[1]["in_flight"] == 0:
        pass
    process.send_signal(number)
    rest, _ = process.communicate(timeout=3)
    connection.close()
    assert (process.returncode, rest) == (0, "")


def test_a_busy_port_gives_one_line(start: Start) -> None:
    port = start()
    done = subprocess.run(command("--port", str(port)), capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert done.stderr == f"simulate_provider: port {port} is in use; choose another with --port\n"


def test_it_starts_without_settings_and_without_the_heavy_libraries() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, apps.providers.simulator; "
            "print([name for name in ('django', 'pydantic_ai', 'openai', 'psycopg') if name in sys.modules])",
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": "not a database"},
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("tokens", [1, 5, 40, 400])
def test_texts_fit_their_tokens(tokens: int) -> None:
    for draw in range(0, 10_000, 97):
        assert len(compose("wind power", draw, tokens)) <= tokens * 4


def test_a_bad_option_gives_one_line() -> None:
    done = subprocess.run(command("--port", "80000"), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "simulate_provider: argument --port: expected a whole number from 1 to 65535, got '80000' "
        "(see manage.py simulate_provider --help)\n"
    )
