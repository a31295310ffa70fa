"""The key of a request: whatever makes another answer makes another key, and nothing else does."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import datetime as dt
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_ai import Agent
from pydantic_ai.messages import (
    BinaryContent,
    ImageUrl,
    InstructionPart,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from apps.execution.request_keys import NOT_SENT, HasNoKey, canonical, request_key

TENANT = uuid.UUID(int=1)
TIME = dt.datetime(2026, 11, 26, tzinfo=dt.UTC)


def request() -> dict[str, Any]:
    """A request with something in each place where something can be."""
    messages: list[ModelMessage] = [
        ModelRequest(
            parts=[
                SystemPromptPart("You are terse.", timestamp=TIME),
                UserPromptPart(
                    ["Look:", ImageUrl("https://x.test/a.png"), BinaryContent(b"\x01\x02", media_type="image/png")],
                    timestamp=TIME,
                ),
            ],
            instructions="Be brief.",
            run_id="run 1",
            timestamp=TIME,
        ),
        ModelResponse(
            parts=[
                ThinkingPart("Hm.", id="t", signature="s"),
                TextPart("A cat."),
                ToolCallPart("look", {"at": [1, 2.5, None, True]}, tool_call_id="c1"),
            ],
            timestamp=TIME,
        ),
        ModelRequest(
            parts=[
                ToolReturnPart("look", {"seen": "cat"}, tool_call_id="c1", timestamp=TIME),
                UserPromptPart("And now?", timestamp=TIME),
            ],
            instructions="Be brief.",
            timestamp=TIME,
        ),
    ]
    return {
        "tenant_id": TENANT,
        "agent": "worker",
        "model": "simulated:small",
        "messages": messages,
        "settings": ModelSettings(
            max_tokens=100,
            temperature=0.5,
            top_p=0.9,
            seed=7,
            stop_sequences=["END"],
            logit_bias={"50256": -100},
            parallel_tool_calls=False,
            extra_body={"reasoning": {"effort": "low"}},
        ),
        "parameters": ModelRequestParameters(
            function_tools=[
                ToolDefinition(
                    name="look",
                    parameters_json_schema={"type": "object", "properties": {"at": {"type": "array"}}},
                    description="Looks",
                )
            ],
            output_tools=[ToolDefinition(name="final", parameters_json_schema={"type": "object"}, kind="output")],
            output_mode="tool",
            allow_text_output=False,
            instruction_parts=[InstructionPart("Be brief.")],
        ),
    }


def key(of: dict[str, Any]) -> str:
    return request_key(**of)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values in a request, as attributes, keys and indices that lead there."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            if field.name not in NOT_SENT:
                yield from leaves(getattr(value, field.name), (*path, ("attr", field.name)))
    elif isinstance(value, dict) and value:
        for name in value:
            yield from leaves(value[name], (*path, ("item", name)))
    elif isinstance(value, list) and value:
        for place in range(len(value)):
            yield from leaves(value[place], (*path, ("item", place)))
    else:
        yield path


def put(root: Any, path: tuple[Any, ...], change: Any) -> None:
    """Changes what is at the end of a path, there."""
    for how, name in path[:-1]:
        root = getattr(root, name) if how == "attr" else root[name]
    how, name = path[-1]
    if how == "attr":
        object.__setattr__(root, name, change(getattr(root, name)))
    else:
        root[name] = change(root[name])


def other(value: Any) -> Any:
    """Another value than this."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return f"{value}x"
        case bytes():
            return value + b"x"
        case uuid.UUID():
            return uuid.UUID(int=value.int + 1)
    return f"not {value!r}"


def test_every_part_of_a_request_counts() -> None:
    places, whole = list(leaves(request())), key(request())
    assert len(places) > 100
    ignored = []
    for place in places:
        changed = request()
        put(changed, place, other)
        if key(changed) == whole:
            ignored.append(place)
    assert ignored == []


def test_the_same_request_has_the_same_key_whenever_it_is_made_and_in_every_process() -> None:
    again = request()
    for message in again["messages"]:
        message.timestamp = TIME + dt.timedelta(days=1)
        message.run_id = str(uuid.uuid4())
    again["settings"] = dict(reversed(again["settings"].items()))
    assert key(again) == key(request())
    code = "from tests.test_request_keys import key, request; print(key(request()))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.strip() == key(request())


PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False)
    | st.text(max_size=3)
    | st.binary(max_size=2)
)
NAMES = st.text(max_size=2) | st.integers(0, 2)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


def same(one: Any, two: Any) -> bool:
    """Equality that tells 1, 1.0 and True apart."""
    if type(one) is not type(two):
        return False
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, dict):
        mine = sorted(one.items(), key=lambda item: repr(item[0]))
        theirs = sorted(two.items(), key=lambda item: repr(item[0]))
        return len(one) == len(two) and all(
            same(a, c) and same(b, d) for (a, b), (c, d) in zip(mine, theirs, strict=True)
        )
    return repr(one) == repr(two)


@settings(max_examples=150, deadline=None)
@given(VALUES, VALUES)
def test_different_values_never_have_the_same_form(one: Any, two: Any) -> None:
    import json

    forms = [json.dumps(canonical(value), sort_keys=True) for value in (one, two)]
    assert (forms[0] == forms[1]) is same(one, two)
    assert json.dumps(canonical(copy.deepcopy(one)), sort_keys=True) == forms[0]


def test_what_cannot_be_compared_has_no_key() -> None:
    for name, value in (
        ("extra_headers", {"Authorization": "Bearer x"}),  # may hold a secret
        ("extra_body", {"callback": lambda: None}),
    ):
        changed = request()
        changed["settings"][name] = value
        with pytest.raises(HasNoKey):
            key(changed)


def test_two_runs_of_an_agent_make_the_same_request() -> None:
    keys = []

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        assert info.model_settings is not None
        settings_sent = ModelSettings(**info.model_settings)
        keys.append(request_key(TENANT, "a", "m", messages, settings_sent, info.model_request_parameters))
        return ModelResponse(parts=[TextPart("fine")])

    agent: Agent[None, str] = Agent(instructions="Be brief.", model_settings=ModelSettings(max_tokens=5))
    for prompt in ("Hello", "Hello", "Bye"):
        asyncio.run(agent.run(prompt, model=FunctionModel(answer)))
    assert keys[0] == keys[1] != keys[2]
