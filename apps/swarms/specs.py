"""The swarm spec: what a team writes to say which agents do which tasks (``docs/reference/swarm-spec.md``)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)

from apps.swarms import documents
from apps.swarms.models import Priority, Runtime
from apps.swarms.spec_checks import MAX_TASKS, problems_of
from apps.swarms.spec_errors import Found, Path, SpecError, SpecInvalid, Suggestions, explain, order_in, path_text
from portal.money import to_nano

__all__ = ["AgentSpec", "RetrySpec", "SpecError", "SpecInvalid", "SwarmSpec", "TaskSpec", "examine", "parse"]

MAX_ERRORS = 1_000
MAX_PROMPT = 50_000
MAX_BUDGET_USD = 1_000_000_000
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"


def _decimal(value: Any) -> Any:
    """An exact number: of 2.5 as it was written, or of the text "2.50"."""
    if isinstance(value, Decimal):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("must be a number")
    try:
        found = Decimal(str(value).strip())
    except InvalidOperation:
        raise ValueError("must be a number") from None
    if not found.is_finite():
        raise ValueError("must be a finite number")
    return found


def _usd(value: Decimal) -> Decimal:
    if value <= 0:
        raise ValueError("must be above 0; leave it out for a run without a budget of its own")
    if value > MAX_BUDGET_USD:
        raise ValueError(f"must be at most {MAX_BUDGET_USD:,}")
    try:
        to_nano(value)
    except ValueError:
        raise ValueError("can have at most nine decimals (a nano-dollar)") from None
    return value


def _share(value: Decimal) -> Decimal:
    if not 0 <= value <= 100_000:
        raise ValueError("must be between 0 and 100,000")
    if value != round(value, 3):
        raise ValueError("can have at most three decimals")
    return value


def _matching(pattern: str, hint: str) -> Callable[[str], str]:
    expression = re.compile(pattern)

    def check(value: str) -> str:
        if not expression.fullmatch(value):
            raise ValueError(hint)
        return value

    return check


def _number_schema(**bounds: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": "number", **bounds})


_IS_NAME = AfterValidator(_matching(_NAME, "A name has letters, digits, - and _, and starts with a letter or digit"))
Name = Annotated[str, Field(min_length=1, max_length=100, json_schema_extra={"pattern": _NAME}), _IS_NAME]
Key = Annotated[str, Field(min_length=1, max_length=100, pattern=_NAME)]
Title = Annotated[
    str,
    Field(min_length=1, max_length=100),
    AfterValidator(_matching(r"\S(.*\S)?", "must be one line of text without blanks at its ends")),
]
ModelName = Annotated[
    str,
    Field(max_length=200, json_schema_extra={"pattern": r"^[A-Za-z0-9_-]+:\S+$"}),
    AfterValidator(_matching(r"[A-Za-z0-9_-]+:\S+", "must be provider:model, such as simulated:small")),
]
Url = Annotated[
    str,
    Field(max_length=2000, json_schema_extra={"pattern": r"^https?://[^\s/]+\S*$"}),
    AfterValidator(_matching(r"https?://[^\s/]+\S*", "must be an address that starts with http:// or https://")),
]
Usd = Annotated[
    Decimal,
    BeforeValidator(_decimal),
    AfterValidator(_usd),
    _number_schema(exclusiveMinimum=0, maximum=MAX_BUDGET_USD),
]
Share = Annotated[
    Decimal, BeforeValidator(_decimal), AfterValidator(_share), _number_schema(minimum=0, maximum=100_000)
]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RetrySpec(_Part):
    """When a failed attempt is made again. Without it: after 5, 15 and 30 seconds."""

    max_retries: int = Field(3, ge=0, le=20, description="Further attempts after the first one failed.")
    base_delay_s: float = Field(5, ge=0, le=3600, description="Seconds before the first retry.")
    factor: float = Field(3, ge=1, le=10, description="What each further delay is multiplied with.")
    max_delay_s: float = Field(60, ge=0, le=86_400, description="Most seconds before a retry.")


class CacheSpec(_Part):
    """Which answers of the model may come from the response cache. Without it: none."""

    answers: bool = Field(False, description="The same request may be answered with what the model said before.")
    degraded: bool = Field(
        False, description="When no region answers, an answer of up to a day ago may be used; the task says so."
    )
    max_age_s: int | None = Field(
        None, ge=1, le=86_400, description="Most seconds that an answer may be old; the installation's, if left out."
    )


class AgentSpec(_Part):
    """How the tasks of an agent are run, and how many of them at once."""

    runtime: Literal["llm", "http", "python"] = Field(
        "llm", description="llm: a model with instructions; http: a service elsewhere; python: a registered callable."
    )
    model: ModelName | None = Field(None, description="llm: the model, as provider:model.")
    url: Url | None = Field(None, description="http: where the service is called.")
    callable: Annotated[str, Field(min_length=1, max_length=100)] | None = Field(
        None, description="python: the name a callable of this installation is registered by."
    )
    instructions: str = Field("", max_length=MAX_PROMPT, description="What the agent is told before each task.")
    replicas: int = Field(1, ge=1, le=10_000, description="How many of its tasks run at once.")
    memory_gb: Share = Field(Decimal(2), description="Memory that each replica asks of the pool, in GB.")
    cpu: Share = Field(Decimal("0.5"), description="CPU that each replica asks of the pool, in cores.")
    max_output_tokens: int = Field(1024, ge=1, le=1_000_000, description="Most tokens of one answer of the model.")
    timeout_s: float = Field(120, ge=0.1, le=86_400, description="Seconds after which an attempt is given up.")
    retry: RetrySpec | None = Field(None, description="When a failed attempt is made again.")
    cache: CacheSpec | None = Field(None, description="llm: which answers may come from the response cache.")
    files: bool = Field(False, description="llm: the model is given a tool to save files, kept with the task.")

    @property
    def options(self) -> dict[str, Any]:
        """What its runtime asks for beside the common keys."""
        cache = self.cache.model_dump(exclude_none=True) if self.cache else None
        asked = (("url", self.url), ("callable", self.callable), ("cache", cache), ("files", self.files))
        return {key: value for key, value in asked if value}


class TaskSpec(_Part):
    """One prompt for one agent, or one for each item of a list."""

    id: Name = Field(description="Its name, unique among the tasks.")
    agent: Name = Field(description="The agent that does it.")
    needs: list[Name] = Field([], max_length=1_000, description="Tasks that must succeed first.")
    for_each: Annotated[list[Any], Field(min_length=1, max_length=MAX_TASKS)] | None = Field(
        None, description="Runs it once for each item of this list; the prompt sees the item."
    )
    prompt: str = Field(
        min_length=1, max_length=MAX_PROMPT, description="Template; sees item, and results of the tasks it needs."
    )

    @property
    def items(self) -> list[Any]:
        """The items it runs for; one None when it is a single task."""
        return [None] if self.for_each is None else self.for_each


class SwarmSpec(_Part):
    """A swarm: its agents and the graph of their tasks."""

    swarm: Title = Field(description="Its name.")
    priority: Literal["low", "normal", "high", "critical"] = Field("normal", description="Its place in the queue.")
    budget_usd: Usd | None = Field(None, description="The most this run may cost, in USD; never exceeded.")
    end_user: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(
        None, description="The person this run is for, as you call them."
    )
    estimated_duration_s: int | None = Field(
        None, ge=1, le=2_592_000, description="How long it may take, in seconds; for estimates of the queue."
    )
    agents: dict[Key, AgentSpec] = Field(min_length=1, max_length=1_000, description="The agents, by their names.")
    tasks: list[TaskSpec] = Field(min_length=1, max_length=MAX_TASKS, description="The tasks.")

    @property
    def priority_value(self) -> Priority:
        return Priority[self.priority.upper()]

    @property
    def budget(self) -> int | None:
        """The run's budget in nano-dollars."""
        return None if self.budget_usd is None else to_nano(self.budget_usd)


_KNOWN_KEYS: dict[Path, list[str]] = {
    (): list(SwarmSpec.model_fields),
    ("agents", "*"): list(AgentSpec.model_fields),
    ("agents", "*", "retry"): list(RetrySpec.model_fields),
    ("agents", "*", "cache"): list(CacheSpec.model_fields),
    ("tasks", "*"): list(TaskSpec.model_fields),
}


@dataclass(slots=True)
class Examined:
    """A spec that was read and checked. ``spec`` is None when ``found`` has errors.

    ``agents`` are those that are well-formed by themselves, so that an installation can check what it knows of them
    even when something else is wrong.
    """

    data: dict[str, Any]
    spec: SwarmSpec | None
    agents: dict[str, AgentSpec]
    found: list[Found] = field(default_factory=list)
    document: documents.Document = field(default_factory=lambda: documents.Document(None))

    def verify(self) -> SwarmSpec:
        """The spec. Raises SpecInvalid with everything that was found."""
        if self.found or self.spec is None:
            ordered = sorted(self.found, key=lambda found: order_in(self.data, found.path))
            errors = [
                SpecError(path_text(e.path), e.message, e.code, self.document.line(e.path))
                for e in ordered[:MAX_ERRORS]
            ]
            if len(ordered) > MAX_ERRORS:
                more = f"There are {len(ordered) - MAX_ERRORS:,} more errors."
                errors.append(SpecError("", more, "too_many_errors"))
            raise SpecInvalid(errors)
        return self.spec


def parse(source: str | Mapping[str, Any]) -> SwarmSpec:
    """The spec in a YAML or JSON text, or in data that was read from one. Raises SpecInvalid with all its errors."""
    return examine(source).verify()


def examine(source: str | Mapping[str, Any]) -> Examined:
    """Reads and checks a spec. Raises SpecInvalid only for what cannot be read at all; the rest is in ``found``."""
    try:
        document = documents.load(source) if isinstance(source, str) else documents.Document(source)
        faults = documents.faults(document.data)
        if any(fault.code == "too_large" for fault in faults):
            raise faults[0]
    except documents.Unreadable as error:
        raise SpecInvalid([SpecError(path_text(error.path), error.message, error.code)]) from error
    data = document.data
    if not isinstance(data, Mapping):
        what = "A spec is a mapping with the keys swarm, agents and tasks."
        raise SpecInvalid([SpecError("", what, "wrong_type")])
    data = dict(data)
    found = [Found(e.path, _capital(e.message), e.code) for e in [*document.faults, *faults]]
    suggestions = Suggestions()
    spec: SwarmSpec | None = None
    try:
        spec = SwarmSpec.model_validate(data)
    except ValidationError as error:
        details = [detail for detail in error.errors(include_url=False) if detail["type"] != "invalid_key"]
        taken = {problem.path for problem in found}
        explained = [explain(detail, _KNOWN_KEYS, suggestions) for detail in details]
        found += [problem for problem in explained if problem.path not in taken]
    taken = {problem.path for problem in found}
    found += [problem for problem in problems_of(data, suggestions) if problem.path not in taken]
    return Examined(data, None if found else spec, _agents(data, spec), found, document)


def _agents(data: Mapping[str, Any], spec: SwarmSpec | None) -> dict[str, AgentSpec]:
    if spec:
        return dict(spec.agents)
    raw = data.get("agents")
    agents: dict[str, AgentSpec] = {}
    for name, agent in list(raw.items())[:1_000] if isinstance(raw, Mapping) else ():
        try:
            agents[str(name)] = AgentSpec.model_validate(agent)
        except ValidationError:
            continue
    return agents


def _capital(message: str) -> str:
    message = message[:1].upper() + message[1:]
    return message if message.endswith((".", ")", "?")) else message + "."


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of specs, for editors and checks elsewhere; it cannot say all that ``parse`` checks."""
    schema = SwarmSpec.model_json_schema()
    _tidy(schema)
    asks = {Runtime.LLM: "model", Runtime.HTTP: "url", Runtime.PYTHON: "callable"}
    agent = schema["$defs"]["AgentSpec"]
    agent["allOf"] = [
        {
            "if": {"properties": {"runtime": {"const": str(runtime)}}, **({} if runtime == "llm" else _SAYS_RUNTIME)},
            "then": {
                "required": [key],
                "properties": {
                    other: False
                    for other in (*asks.values(), *(() if runtime == "llm" else ("cache",)))
                    if other != key
                }
                | ({} if runtime == "llm" else {"files": {"const": False}}),
            },
        }
        for runtime, key in asks.items()
    ]
    says_files = {"properties": {"files": {"const": True}}, "required": ["files"]}
    agent["allOf"].append({"if": says_files, "then": {"properties": {"cache": False}}})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Swarm spec"}


_SAYS_RUNTIME = {"required": ["runtime"]}


def _tidy(node: Any) -> None:
    """Takes out what pydantic adds for programs: titles, and the alternative null of what can be left out."""
    if isinstance(node, dict):
        if isinstance(node.get("title"), str):
            del node["title"]
        options = node.get("anyOf")
        if isinstance(options, list) and {"type": "null"} in options and len(options) == 2:
            del node["anyOf"]
            node.update(next(option for option in options if option != {"type": "null"}))
            if node.get("default", ...) is None:
                del node["default"]
        if node.get("type") == "number" and isinstance(node.get("default"), str):
            node["default"] = float(node["default"])  # exact numbers come as texts
        for child in node.values():
            _tidy(child)
    elif isinstance(node, list):
        for child in node:
            _tidy(child)
