"""The examples and the reference of specs are true."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import call_command
from jsonschema import Draft202012Validator

from apps.swarms import prompts, specs
from apps.swarms.actions.submit import submit
from apps.swarms.documents import load
from apps.tenants.access import principal_of_command
from apps.tenants.models import Tenant
from tests.specs import BRIEF, simulated, spec

DOCS = Path(settings.BASE_DIR) / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("*.yaml"))
SCHEMA = DOCS / "reference" / "swarm-spec.schema.json"
REFERENCE = (DOCS / "reference" / "swarm-spec.md").read_text()


@pytest.fixture
def schema() -> Draft202012Validator:
    loaded = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(loaded)
    return Draft202012Validator(loaded)


def test_there_are_examples_to_start_from() -> None:
    assert len(EXAMPLES) >= 4


@pytest.mark.django_db
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_can_be_submitted_to_a_demo_installation(path: Path, acme: Tenant) -> None:
    simulated()
    swarm = submit(path.read_text(), tenant=acme, by=principal_of_command("test"))
    assert swarm.name == path.stem
    assert set(swarm.agents.values_list("model", flat=True)) <= {"simulated:small", "simulated:large"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_has_a_title_and_fits_the_schema(path: Path, schema: Draft202012Validator) -> None:
    source = path.read_text()
    assert re.match(r"# [A-Z].{20,}\n", source)
    assert max(map(len, source.splitlines())) <= 120
    assert [error.message for error in schema.iter_errors(load(source).data)] == []


def test_the_published_schema_is_the_one_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("spec_schema")
    hint = "run: manage.py spec_schema > docs/reference/swarm-spec.schema.json"
    assert SCHEMA.read_text() == capsys.readouterr().out, hint


@pytest.mark.parametrize(
    "wrong",
    [
        spec(colour="red"),
        spec(agents=None),
        spec(agents={"worker": {"runtime": "llm"}}),
        spec(agents={"worker": {"replicas": 1}}),
        spec(agents={"worker": {"runtime": "http", "model": "a:b"}}),
        spec(agents={"worker": {"runtime": "python", "callable": "x", "url": "https://x.test"}}),
        spec(agents={"worker": {"model": "gpt"}}),
        spec(agents={"worker": {"runtime": "python", "callable": "x", "files": True}}),
        spec(agents={"worker": {"model": "a:b", "files": True, "cache": {"answers": True}}}),
        spec(tasks=[{"id": "a b", "agent": "worker", "prompt": "x"}]),
        spec(tasks=[]),
        spec(budget_usd=0),
    ],
    ids=str,
)
def test_the_schema_refuses_what_the_code_refuses(wrong: dict[str, object], schema: Draft202012Validator) -> None:
    with pytest.raises(specs.SpecInvalid):
        specs.parse(wrong)
    assert list(schema.iter_errors(wrong))


def test_the_schema_takes_what_the_code_takes(schema: Draft202012Validator) -> None:
    for right in (load(BRIEF).data, spec(), spec(agents={"worker": {"runtime": "http", "url": "http://a.test/run"}})):
        specs.parse(right)
        assert [error.message for error in schema.iter_errors(right)] == []


def test_the_reference_describes_every_key() -> None:
    models = (specs.SwarmSpec, specs.AgentSpec, specs.RetrySpec, specs.TaskSpec)
    missing = [key for model in models for key in model.model_fields if f"| `{key}` |" not in REFERENCE]
    assert missing == []


def test_the_reference_names_every_filter_and_every_code_of_an_error() -> None:
    assert [name for name in prompts.FILTERS if f"`{name}`" not in REFERENCE] == []
    swarms = Path(settings.BASE_DIR) / "apps" / "swarms"
    names = ["specs", "spec_checks", "spec_errors", "documents", "actions/submit"]
    sources = "".join((swarms / f"{name}.py").read_text() for name in names)
    spelled = set(re.findall(r'(?:Found|Unreadable|SpecError|return)\b.*, "([a-z_]+)"\)*\n', sources))
    assert spelled - set(re.findall(r"`([a-z_]+)`", REFERENCE)) == set()
    assert {"cycle", "does_not_fit", "unknown_model", "wrong_type"} <= spelled


def test_the_spec_in_the_reference_is_valid() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", REFERENCE, re.DOTALL)
    assert specs.parse(block).swarm == "market-brief"
