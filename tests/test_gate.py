"""The gate: reserve before the call, settle after, and what each way of ending a call costs."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelConnectionError, ModelHTTPError, ModelTimeoutError, UserError
from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, UserPromptPart
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage

from apps.costs.prices import ModelPrice
from apps.costs.reserving import CallRequest, Settlement, Verdict
from apps.execution.errors import BudgetBusy, BudgetExhausted
from apps.execution.gate import CallContext, Gate, Usage
from apps.execution.governed import GovernedModel, request_bytes

PRICE = ModelPrice("simulated:small", 1_000_000, 2_000_000)  # 1 and 2 nano-dollars a token
HIGHEST = 1000


class Books:
    """Writes down what the gate asks for; verdicts are given in advance."""

    def __init__(self, *verdicts: str) -> None:
        self._verdicts = list(verdicts)
        self.reserved: list[CallRequest] = []
        self.settled: list[Settlement] = []
        self.released: list[uuid.UUID] = []
        self.pending: asyncio.Future[Verdict] | None = None

    def reserve(self, request: CallRequest) -> asyncio.Future[Verdict]:
        self.reserved.append(request)
        answer: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        verdict = self._verdicts.pop(0) if self._verdicts else "granted"
        if verdict == "slow":
            self.pending = answer
        else:
            answer.set_result(
                Verdict(request.id, verdict == "granted", "The budget is full.", may_fit_later=verdict == "later")
            )
        return answer

    def settle(self, settlement: Settlement) -> asyncio.Future[None]:
        self.settled.append(settlement)
        return asyncio.get_running_loop().create_future()

    def release(self, id: uuid.UUID) -> asyncio.Future[None]:
        self.released.append(id)
        return asyncio.get_running_loop().create_future()

    def gate(self, patience_s: float = 10.0) -> Gate:
        return Gate(self.reserve, self.settle, self.release, patience_s=patience_s)


def context() -> CallContext:
    return CallContext(
        tenant_id=uuid.uuid4(),
        subject_id=None,
        swarm_id=uuid.uuid4(),
        task_id=uuid.uuid4(),
        attempt_id=uuid.uuid4(),
        agent="writer",
        model="simulated:small",
        price=PRICE,
        expires_at=dt.datetime(2026, 11, 21, tzinfo=dt.UTC),
    )


def answering(usage: Usage) -> Callable[[], Awaitable[tuple[str, Usage]]]:
    async def send() -> tuple[str, Usage]:
        return "answer", usage

    return send


def failing(error: BaseException) -> Callable[[], Awaitable[tuple[str, Usage]]]:
    async def send() -> tuple[str, Usage]:
        raise error

    return send


def test_a_call_is_settled_at_what_its_tokens_cost() -> None:
    books, on = Books(), context()
    assert asyncio.run(books.gate().call(on, HIGHEST, answering(Usage(10, 20)))) == "answer"
    (request,) = books.reserved
    assert (request.amount, request.attempt_id) == (HIGHEST, on.attempt_id)
    assert books.settled == [Settlement(request.id, 50, 10, 20, rates=PRICE.rates(10))]
    assert (on.spending.requests, on.spending.estimated, on.spending.cost) == (1, HIGHEST, 50)


def test_a_provider_that_does_not_say_what_it_billed_is_charged_as_reserved() -> None:
    books, on = Books(), context()
    asyncio.run(books.gate().call(on, HIGHEST, answering(Usage(0, 0))))
    assert books.settled == [Settlement(books.reserved[0].id, None)]
    assert on.spending.cost == HIGHEST


ENDS = [
    # how the call ends, whether its reservation is given back (else it is charged as reserved)
    (ModelHTTPError(status_code=500, model_name="small"), True),  # refused with a status: not billed
    (ModelHTTPError(status_code=429, model_name="small"), True),
    (ModelHTTPError(status_code=500, model_name="small", in_stream=True), False),  # tokens had been made
    (ModelConnectionError("small", "refused", phase="connect"), True),  # never sent
    (ModelConnectionError("small", "no free connection", phase="pool"), True),
    (ModelConnectionError("small", "reset", phase="read"), False),  # sent; who knows
    (ModelConnectionError("small", "reset", phase="write"), False),
    (ModelConnectionError("small", "closed", phase=None), False),
    (ModelTimeoutError("small", "timed out", phase="connect"), True),
    (ModelTimeoutError("small", "timed out", phase="read"), False),
    (asyncio.CancelledError(), False),  # cut by a timeout or an order to stop
    (ValueError("the answer made no sense"), False),
]


@pytest.mark.parametrize(("error", "given_back"), ENDS, ids=[repr(row[0])[:70] for row in ENDS])
def test_what_a_failed_call_costs(error: BaseException, given_back: bool) -> None:
    books, on = Books(), context()
    with pytest.raises(type(error)):
        asyncio.run(books.gate().call(on, HIGHEST, failing(error)))
    (request,) = books.reserved
    assert books.released == ([request.id] if given_back else [])
    assert books.settled == ([] if given_back else [Settlement(request.id, None)])
    assert on.spending.cost == (0 if given_back else HIGHEST)


def test_without_room_no_call_is_made() -> None:
    books = Books("exhausted")
    with pytest.raises(BudgetExhausted, match="The budget is full"):
        asyncio.run(books.gate().call(context(), HIGHEST, failing(AssertionError("a call was made"))))
    assert books.settled == books.released == []


def test_a_call_that_calls_in_flight_leave_no_room_for_waits_and_is_made() -> None:
    books = Books("later", "later", "granted")
    assert asyncio.run(books.gate().call(context(), HIGHEST, answering(Usage(1, 1)))) == "answer"
    assert len({request.id for request in books.reserved}) == 3


def test_patience_ends() -> None:
    books = Books(*["later"] * 10)
    with pytest.raises(BudgetBusy):
        asyncio.run(books.gate(patience_s=0.0).call(context(), HIGHEST, answering(Usage(1, 1))))


def test_a_call_cancelled_while_it_reserves_gives_back_what_is_granted_later() -> None:
    async def main() -> Books:
        books = Books("slow")
        call = asyncio.ensure_future(books.gate().call(context(), HIGHEST, answering(Usage(1, 1))))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert books.pending is not None
        books.pending.set_result(Verdict(books.reserved[0].id, True))
        await asyncio.sleep(0)
        return books

    books = asyncio.run(main())
    assert books.released == [books.reserved[0].id]
    assert books.settled == []


# -- the model around which the gate is put --------------------------------------------------------------------------


def governed(books: Books, function: Any, *, max_output_tokens: int = 100) -> GovernedModel:
    return GovernedModel(FunctionModel(function), books.gate(), context(), max_output_tokens=max_output_tokens)


def test_every_request_of_an_agent_passes_the_gate_with_a_bound_on_its_output() -> None:
    seen: list[Any] = []

    def answer(messages: list[Any], info: AgentInfo) -> ModelResponse:
        seen.append(info.model_settings)
        return ModelResponse(parts=[TextPart("fine")], usage=RequestUsage(input_tokens=10, output_tokens=5))

    books = Books()
    asyncio.run(Agent(instructions="Be brief.").run("Hello", model=governed(books, answer)))
    assert [settings["max_tokens"] for settings in seen] == [100]
    (request,) = books.reserved
    # 100 output tokens at 2, and at least a nano-dollar for each byte of the texts.
    assert 100 * 2 + len("Be brief.Hello") <= request.amount < 100 * 2 + 600
    assert books.settled == [Settlement(request.id, 10 * 1 + 5 * 2, 10, 5, rates=PRICE.rates(10))]


def test_an_agent_cannot_raise_its_bound() -> None:
    def answer(messages: list[Any], info: AgentInfo) -> ModelResponse:
        assert info.model_settings is not None
        assert info.model_settings["max_tokens"] == 100
        return ModelResponse(parts=[TextPart("fine")], usage=RequestUsage(input_tokens=1, output_tokens=1))

    books = Books()
    asyncio.run(Agent(model_settings={"max_tokens": 10**6}).run("Hello", model=governed(books, answer)))


@pytest.mark.parametrize("way", ["request_stream", "count_tokens", "batch_create"])
def test_there_is_no_way_round(way: str) -> None:
    def answer(messages: list[Any], info: AgentInfo) -> ModelResponse:
        raise AssertionError("a call was made")

    model = governed(Books(), answer)

    async def go() -> None:
        made = getattr(model, way)([], None, ModelRequestParameters())
        if way == "request_stream":
            async with made:
                pass
        else:
            await made

    with pytest.raises(UserError, match="plain requests only"):
        asyncio.run(go())


@given(st.text(max_size=300), st.text(max_size=300))
def test_the_bound_on_input_tokens_is_no_less_than_the_bytes_of_all_texts(prompt: str, instructions: str) -> None:
    messages = [ModelRequest(parts=[UserPromptPart(prompt)], instructions=instructions)]
    body = json.dumps(
        {
            "messages": [{"role": "system", "content": instructions}, {"role": "user", "content": prompt}],
        },
        ensure_ascii=False,
    ).encode("utf-8", "surrogatepass")
    bound = request_bytes(messages, ModelRequestParameters())
    texts = len(prompt.encode("utf-8", "surrogatepass")) + len(instructions.encode("utf-8", "surrogatepass"))
    assert bound >= texts + 64
    # Not absurdly more than what is sent: what is reserved without need is money that others cannot use.
    assert bound <= len(body) + 300
