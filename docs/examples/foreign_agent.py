"""An agent of another framework under a hard budget of Swarmdesk. It needs Python's standard library and nothing else.

    TOKEN=swd_… python foreign_agent.py --desk http://127.0.0.1:8000 --tenant acme --provider http://127.0.0.1:9100/v1

Before each model call it reserves the most that the call can cost; after it, it settles what the call did cost. When a
budget refuses, it stops, says why, and ends with exit code 3.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

MAX_OUTPUT_TOKENS = 200
CALL_TIMEOUT_S = 30
LEASE_S = 60  # longer than a call can take, so that no call outlives its reservation


def post(url: str, body: Any, token: str = "", timeout: float = 30) -> tuple[int, Any, Any]:
    """Status, JSON and headers of an answer, whatever the status."""
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, json.load(answer), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or b"{}"), error.headers


class BudgetExhausted(Exception):
    """No money for this call. The text says which budget refuses."""


class Desk:
    """Swarmdesk, as an agent elsewhere sees it."""

    def __init__(self, url: str, token: str, tenant: str, run: str) -> None:
        self.url = f"{url}/api/v1/costs/reservations/"
        self.token, self.tenant, self.run = token, tenant, run

    def reserve(self, *, agent: str, model: str, input_bytes: int, max_output_tokens: int) -> str:
        """The id of a reservation. Waits while calls in flight hold the money. Raises BudgetExhausted."""
        wanted = {
            "tenant": self.tenant,
            "run": self.run,
            "agent": agent,
            "model": model,
            "input_bytes": input_bytes,
            "max_output_tokens": max_output_tokens,
            "lease_s": LEASE_S,
        }
        while True:
            status, answer, headers = post(self.url, wanted, self.token)
            if status == 201:
                return str(answer["id"])
            problem = answer["errors"][0]
            if problem["code"] == "budget_exhausted":
                raise BudgetExhausted(problem["detail"])
            if problem["code"] != "budget_busy":
                raise RuntimeError(f"{status}: {problem['detail']}")
            time.sleep(float(headers.get("Retry-After", 1)))

    def settle(self, reservation: str, usage: dict[str, int]) -> None:
        """Charges what a call cost, by the tokens that the provider reported."""
        self._end(reservation, "settle", {"input_tokens": usage["prompt_tokens"],
                                          "output_tokens": usage["completion_tokens"]})  # fmt: skip

    def release(self, reservation: str) -> None:
        """Gives it back: the call was not made."""
        self._end(reservation, "release", {})

    def _end(self, reservation: str, act: str, body: dict[str, Any]) -> None:
        for pause in (0.5, 2, 5, None):  # sending it again does no harm: nothing is charged twice
            try:
                status, answer, _ = post(f"{self.url}{reservation}/{act}/", body, self.token)
            except OSError:
                status, answer = 503, {}
            if status == 200:
                return
            if status < 500 or pause is None:
                raise RuntimeError(f"{act} answered {status}: {answer}")
            time.sleep(pause)


def governed(desk: Desk, provider: str, model: str) -> Callable[[str, str], str]:
    """A model for the framework: a function of an agent's name and a prompt, which no call can make without money."""

    def ask(agent: str, prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        call = {"model": model.partition(":")[2], "messages": messages, "max_tokens": MAX_OUTPUT_TOKENS}
        size = len(json.dumps(call, ensure_ascii=False).encode())
        held = desk.reserve(agent=agent, model=model, input_bytes=size, max_output_tokens=MAX_OUTPUT_TOKENS)
        try:
            status, answer, _ = post(f"{provider}/chat/completions", call, timeout=CALL_TIMEOUT_S)
        except ConnectionRefusedError:
            desk.release(held)
            raise
        except urllib.error.URLError as error:
            if isinstance(error.reason, ConnectionRefusedError):
                desk.release(held)
            raise  # otherwise nobody knows what it cost: its lease ends, and all of it is charged
        if status != 200:
            if status < 500:
                desk.release(held)  # the provider refused the call, and bills nothing
            raise RuntimeError(f"the provider answered {status}")
        desk.settle(held, answer["usage"])
        return str(answer["choices"][0]["message"]["content"])

    return ask


def crew(ask: Callable[[str, str], str], topics: list[str]) -> int:
    """The framework: a researcher and a critic talk about each topic. How many topics they finished."""
    for done, topic in enumerate(topics):
        try:
            facts = ask("researcher", f"Collect three facts on {topic}.")
            ask("critic", f"What is missing here? {facts}")
        except BudgetExhausted as refusal:
            print(f"Stopped after {done} of {len(topics)} topics. {refusal}")
            return done
        print(f"Done: {topic}")
    print(f"Finished all {len(topics)} topics.")
    return len(topics)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--desk", default="http://127.0.0.1:8000", help="address of Swarmdesk")
    parser.add_argument("--tenant", default="acme")
    parser.add_argument("--provider", default="http://127.0.0.1:9100/v1", help="an OpenAI-compatible address")
    parser.add_argument("--model", default="simulated:small", help="provider:model, as in the price book")
    parser.add_argument("--run", default=f"crew-{int(time.time())}", help="your name for this run")
    parser.add_argument("--topics", type=int, default=20)
    options = parser.parse_args()
    token = os.environ.get("TOKEN")
    if not token:
        parser.error("TOKEN is not set: make one with manage.py create_api_token")
    desk = Desk(options.desk, token, options.tenant, options.run)
    topics = [f"topic {number}" for number in range(options.topics)]
    return 0 if crew(governed(desk, options.provider, options.model), topics) == len(topics) else 3


if __name__ == "__main__":
    sys.exit(main())
