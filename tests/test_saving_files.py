"""Agents save files: a model by a tool over HTTP, callables by an argument; what is kept is what succeeded."""  # E8

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import re
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.files.storage import InMemoryStorage, storages
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.costs import accrual
from apps.costs.models import LedgerEntry
from apps.events.models import Event
from apps.execution import leases, results
from apps.execution.artifacts import recording, sweeping
from apps.execution.artifacts.saving import AttemptFiles, save_file
from apps.execution.artifacts.storing import FileLimits, FileStore, StoredFile, announce
from apps.execution.errors import CannotSave
from apps.execution.leases import Leased
from apps.execution.models import Artifact, Attempt, LooseObject
from apps.execution.runner import Runner, RunnerConfig
from apps.execution.runtimes.python import takes_files
from apps.execution.tasks import sweep_files
from apps.observability import wholeness
from apps.swarms import runtimes
from apps.swarms.models import Swarm, Task, TaskStatus
from apps.swarms.progress import TaskOutcome
from apps.tenants.models import Tenant
from portal.ids import uuid7
from tests import desk
from tests.archives import files_in
from tests.running import ROOT, SimulatorProcess, run_until, simulator, wait_until
from tests.swarms import NOW, AgentOf, StepOf, make_swarm, simulated_provider

CONFIG = RunnerConfig(concurrency=50, grace_s=8, write_reserve_s=5)
LARGE = bytes(range(256)) * 6_000  # 1.5 MB
LATER = dt.timedelta(hours=7)
LIMITS = FileLimits(in_database=1_000, largest=10_000, per_task=3)


@pytest.fixture(autouse=True)
def objects(settings: Any, tmp_path: Path) -> Path:
    """The folder of the artifacts' objects."""
    settings.STORAGES = files_in(tmp_path)
    return tmp_path / "artifacts"


def keys_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def over(swarm: Swarm) -> Callable[[], bool]:
    def is_over() -> bool:
        leases.release_due(now=timezone.now())
        return Swarm.objects.get(pk=swarm.pk).is_over

    return is_over


def bytes_of(artifact: Artifact) -> bytes:
    with artifact.open() as file:
        return file.read()


# -- the whole way -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def provider() -> Iterator[SimulatorProcess]:
    with simulator() as running:
        yield running


def write_report(prompt: str, item: Any, files: Any) -> str:
    files.save("report.txt", f"Of {item}.")
    files.save("data/dump.bin", LARGE)
    return "two files"


async def write_notes(prompt: str, item: Any, *, files: Any) -> str:
    await asyncio.gather(files.save("a.md", "first"), files.save("b", b"\x00\xff"))
    await files.save("a.md", "second", media_type="Text/X-Notes; charset=utf-8")
    return "two files"


def no_files(prompt: str, item: Any) -> str:
    return "none"


@pytest.mark.processes
def test_models_and_callables_save_files(
    provider: SimulatorProcess, own_database: str, acme: Tenant, objects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated_provider(provider.port)
    functions = {"report": write_report, "notes": write_notes, "none": no_files}
    for name, function in functions.items():
        monkeypatch.setitem(runtimes.callables, name, function)
    python = {"runtime": "python", "model": ""}
    agents = {name: AgentOf(2, {**python, "options": {"callable": name}}) for name in functions}
    agents["writer"] = AgentOf(2, {"options": {"files": True}, "max_output_tokens": 100})
    agents["silent"] = AgentOf(2, {"max_output_tokens": 100})
    prompts = {"writer": "Write on tidal energy. Save it as brief.md.", "silent": "Go on. Save it as brief.md."}
    swarm = make_swarm(
        acme,
        [StepOf(name, agent=name, prompt=prompts.get(name, "Do {{ item }}.")) for name in agents],
        agents,
        now=timezone.now(),
    )
    run_until(over(swarm), config=CONFIG, timeout_s=60)
    swarm.refresh_from_db()
    assert (swarm.status, swarm.tasks_succeeded) == ("succeeded", 5)
    made = {(each.task.step.name, each.name): each for each in Artifact.objects.select_related("task__step")}
    assert {key: (each.media_type, each.size, bool(each.key)) for key, each in made.items() if key[0] != "writer"} == {
        ("report", "report.txt"): ("text/plain", 10, False),
        ("report", "data/dump.bin"): ("application/octet-stream", len(LARGE), True),
        ("notes", "a.md"): ("text/x-notes", 6, False),
        ("notes", "b"): ("application/octet-stream", 2, False),
    }
    assert bytes_of(made["report", "data/dump.bin"]) == LARGE
    assert [bytes_of(made["notes", name]) for name in ("a.md", "b")] == [b"second", b"\x00\xff"]
    # The model called the tool over HTTP, and answered when it had its result: two calls, both paid for.
    brief = made["writer", "brief.md"]
    assert brief.media_type == "text/markdown"
    assert b"tidal" in bytes_of(brief)
    assert "tidal" in str(Task.objects.get(step__name="writer").result)
    assert LedgerEntry.objects.filter(task_id=brief.task_id).count() == 2
    assert {each.swarm_id for each in made.values()} == {swarm.pk}
    assert {each.tenant_id for each in made.values()} == {acme.pk}
    # Attempts say what they made, and events tell of it by ids and numbers.
    counts = dict(Attempt.objects.values_list("task__step__name", "files_created"))
    assert counts == {"report": 2, "notes": 2, "writer": 1, "none": 0, "silent": 0}
    attempt = Attempt.objects.get(task__step__name="writer")
    assert attempt.context["files"] == [{"name": "brief.md", "size": brief.size}]
    assert brief.attempt_id == attempt.pk
    told = {each.data["artifact_id"]: each for each in Event.objects.filter(kind="artifact.created")}
    assert set(told) == {str(each.pk) for each in made.values()}
    event = told[str(brief.pk)]
    assert (event.tenant_id, event.swarm_id, event.task_id) == (acme.pk, swarm.pk, brief.task_id)
    assert event.data == {"artifact_id": str(brief.pk), "size": brief.size}
    # What lies in storage is what the rows name, and nothing is left over.
    assert keys_in(objects) == {each.key for each in made.values() if each.key}
    assert not LooseObject.objects.exists()
    assert accrual._measure()[acme.pk, "Files of agents"] == sum(each.size for each in made.values())


@pytest.mark.processes
def test_the_attempt_that_succeeds_wins_with_the_same_names(
    own_database: str, acme: Tenant, objects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def stumbles(prompt: str, item: Any, files: Any) -> str:
        tried.append(1)
        for name, size in (("small", 5), ("large", 2_000_000)):
            files.save(name, str(len(tried)) * size)
        if len(tried) == 1:
            raise RuntimeError("It stumbled.")
        return "done"

    monkeypatch.setitem(runtimes.callables, "stumbles", stumbles)
    fields = {"runtime": "python", "model": "", "options": {"callable": "stumbles"}, "retry": {"base_delay_s": 0.01}}
    swarm = make_swarm(acme, [StepOf("only")], {"worker": AgentOf(1, fields)}, now=timezone.now())
    run_until(over(swarm), config=CONFIG, timeout_s=60)
    first, second = Attempt.objects.order_by("number")
    assert (first.outcome, first.files_created, second.outcome, second.files_created) == ("failed", 2, "succeeded", 2)
    made = {each.name: each for each in Artifact.objects.all()}
    assert {name: bytes_of(each)[:1] for name, each in made.items()} == {"small": b"2", "large": b"2"}
    assert {each.attempt_id for each in made.values()} == {second.pk}
    assert len(keys_in(objects)) == 2
    left = LooseObject.objects.get()
    assert left.attempt_id == first.pk
    assert sweep_files() == 0, "an upload may still be on its way"
    assert sweeping.sweep(now=timezone.now() + LATER) == 1
    assert keys_in(objects) == {made["large"].key}
    assert not LooseObject.objects.exists()


@pytest.mark.processes
def test_what_exceeds_a_limit_is_told_and_loses_nothing(
    provider: SimulatorProcess, own_database: str, acme: Tenant, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ARTIFACT_DATABASE_BYTES, settings.ARTIFACT_MAX_BYTES, settings.ARTIFACTS_PER_TASK = 10, 20, 2
    simulated_provider(provider.port)

    def greedy(prompt: str, item: Any, files: Any) -> list[str]:
        told = []
        for name, data in (("big", "x" * 21), ("../up", "x"), ("a", b"1"), ("b", b"2"), ("c", b"3"), ("a", b"4")):
            try:
                files.save(name, data)
            except ValueError as error:
                told.append(str(error))
        return told

    monkeypatch.setitem(runtimes.callables, "greedy", greedy)
    agents = {
        "greedy": AgentOf(1, {"runtime": "python", "model": "", "options": {"callable": "greedy"}}),
        "writer": AgentOf(1, {"options": {"files": True}, "max_output_tokens": 100}),
    }
    steps = [StepOf("greedy", agent="greedy"), StepOf("writer", agent="writer", prompt="Go. Save it as brief.md.")]
    swarm = make_swarm(acme, steps, agents, now=timezone.now())
    run_until(over(swarm), config=CONFIG, timeout_s=60)
    assert Swarm.objects.get(pk=swarm.pk).status == "succeeded"
    assert Task.objects.get(step__name="greedy").result == [
        "big has 21 bytes, and a file has at most 20. Save less, or several files.",
        "A file's name has no empty part, and none that is . or ..",
        "2 files are saved, and a task has no more than that. Put more into one file, or replace one that is saved by "
        "using its name.",
    ]
    assert {each.name: bytes_of(each) for each in Artifact.objects.all()} == {"a": b"4", "b": b"2"}


@pytest.mark.processes
def test_a_storage_that_fails_fails_the_attempt_and_a_later_one_heals(
    own_database: str, acme: Tenant, objects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects.write_text("a file where a folder should be")
    monkeypatch.setitem(runtimes.callables, "report", write_report)
    fields = {"runtime": "python", "model": "", "options": {"callable": "report"}, "retry": {"base_delay_s": 0.01}}
    swarm = make_swarm(acme, [StepOf("only")], {"worker": AgentOf(1, fields)}, now=timezone.now())

    def mend(runner: Runner) -> None:
        wait_until(lambda: Attempt.objects.filter(outcome="failed").exists())
        objects.unlink()

    run_until(over(swarm), config=CONFIG, meanwhile=mend, timeout_s=60)
    assert Swarm.objects.get(pk=swarm.pk).status == "succeeded"
    failed = Attempt.objects.filter(outcome="failed").order_by("number").first()
    assert failed is not None
    assert "The file data/dump.bin did not reach object storage: NotADirectoryError" in failed.error
    assert Artifact.objects.count() == 2


# -- recording ---------------------------------------------------------------------------------------------------------


def stored(name: str = "report.md", data: bytes = b"# Report", *, key: str = "") -> StoredFile:
    return StoredFile(uuid7(), name, "text/markdown", len(data), "0" * 64, None if key else data, key, NOW)


def finished(leased: Leased, *files: StoredFile, status: TaskStatus = TaskStatus.SUCCEEDED) -> results.Finished:
    retry_at = NOW if status == TaskStatus.WAITING else None
    outcome = TaskOutcome(leased.task_id, leased.token, status, result="done", retry_at=retry_at)
    return results.Finished(leased, desk.RUNNER, outcome, NOW, {}, files=files)


def test_a_stale_attempt_keeps_nothing(db: None, acme: Tenant) -> None:
    make_swarm(acme, [StepOf("gather", items=2)])
    stale, current = desk.take(2, NOW)
    Task.objects.filter(pk=stale.task_id).update(lease_token=uuid.uuid4())
    results.write([finished(stale, stored()), finished(current, stored())], now=NOW)
    assert [each.task_id for each in Artifact.objects.all()] == [current.task_id]
    assert Attempt.objects.get(pk=stale.token).files_created == 1, "it did make one"
    assert Event.objects.filter(kind="artifact.created").count() == 1


@pytest.mark.parametrize("status", [TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.WAITING])
def test_an_attempt_without_success_keeps_nothing(db: None, acme: Tenant, status: TaskStatus) -> None:
    make_swarm(acme, [StepOf("gather", items=2)])
    (leased,) = desk.take(1, NOW)
    results.write([finished(leased, stored(), status=status)], now=NOW)
    assert not Artifact.objects.exists()
    assert Attempt.objects.get().files_created == 1


def test_a_batch_that_is_repeated_records_its_files_once(db: None, acme: Tenant) -> None:
    make_swarm(acme, [StepOf("gather", items=2)])
    (leased,) = desk.take(1, NOW)
    for _ in range(2):
        results.write([finished(leased, stored())], now=NOW)
    assert Artifact.objects.count() == Event.objects.filter(kind="artifact.created").count() == 1


def test_files_and_results_are_written_together_or_not_at_all(
    db: None, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_swarm(acme, [StepOf("gather", items=2)])
    (leased,) = desk.take(1, NOW)

    def fails(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("The last write fails.")

    monkeypatch.setattr(recording, "emit", fails)
    with pytest.raises(RuntimeError), transaction.atomic():
        results.write([finished(leased, stored())], now=NOW)
    assert not Artifact.objects.exists()
    assert Task.objects.get(pk=leased.task_id).status == "running"


def test_files_cost_a_few_statements_a_batch_and_none_where_there_are_none(db: None, acme: Tenant) -> None:
    make_swarm(acme, [StepOf("gather", items=9)], {"worker": AgentOf(9)})
    leased = desk.take(9, NOW)
    said = []
    for some, files in ((leased[:3], 0), (leased[3:6], 1), (leased[6:8], 20)):
        batch = [
            finished(each, *(stored(f"{n}.md", key=f"{each.token}/{n}" if n % 2 else "") for n in range(files)))
            for each in some
        ]
        with CaptureQueriesContext(connection) as captured:
            results.write(batch, now=NOW)
        said.append(len(captured))
        touching = [query["sql"] for query in captured if "artifact" in query["sql"] or "loose" in query["sql"]]
        assert bool(touching) == bool(files)
    none, few, many = said
    assert few - none == 2, "rows and events"
    assert many - none == 3, "and what is no longer loose"
    assert Artifact.objects.count() == 3 + 40


def test_much_content_goes_in_portions(db: None, acme: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "BYTES", 10)
    make_swarm(acme, [StepOf("gather")])
    (leased,) = desk.take(1, NOW)
    results.write([finished(leased, *(stored(f"{n}", b"1234") for n in range(5)), stored("all", b"x" * 11))], now=NOW)
    assert sorted(Artifact.objects.values_list("size", flat=True)) == [4, 4, 4, 4, 4, 11]


# -- saving ------------------------------------------------------------------------------------------------------------


def a_lease() -> Leased:
    one = uuid.uuid4()
    return Leased(one, one, one, one, one, one, 0, None, 1, NOW)


def with_files(work: Callable[[AttemptFiles], Awaitable[Any]], *, limits: FileLimits = LIMITS) -> Any:
    """Does something with the files of an attempt, in an event loop, without a database; what came of it."""

    async def main() -> Any:
        async def committed(loose: LooseObject) -> None:
            announced.append(loose.key)

        announced: list[str] = []
        store = FileStore(lambda loose: asyncio.ensure_future(committed(loose)), limits=limits, now=lambda: NOW)
        try:
            return await work(AttemptFiles(store, a_lease()))
        finally:
            store.close()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"name": 3, "data": "x"}, "name is text, not int"),
        ({"name": "a", "data": {"x": 1}}, "bytes or text, not dict"),
        ({"name": "a", "data": None}, "bytes or text, not NoneType"),
        ({"name": "/a", "data": "x"}, "does not start with /"),
        ({"name": "a", "data": "x", "media_type": "picture"}, "looks like text/markdown"),
        ({"name": "a", "data": "ä" * 5_001}, "10,002 bytes, and a file has at most 10,000"),
    ],
)
def test_what_cannot_be_saved_is_told(arguments: dict[str, Any], why: str) -> None:
    async def work(files: AttemptFiles) -> list[StoredFile]:
        with pytest.raises(CannotSave, match=why):
            await files.save(**arguments)
        return files.close()

    assert with_files(work) == []


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a.csv", "x", "text/csv"),
        ("a.PNG", b"x", "image/png"),
        ("a.csv.gz", b"x", "application/octet-stream"),
        ("a", "x", "text/plain"),
        ("a", b"x", "application/octet-stream"),
    ],
)
def test_the_names_ending_stands_for_a_media_type(name: str, data: bytes | str, kind: str) -> None:
    async def work(files: AttemptFiles) -> list[StoredFile]:
        await files.save(name, data)
        return files.close()

    assert [each.media_type for each in with_files(work)] == [kind]


def test_nothing_is_saved_when_the_attempt_is_over() -> None:
    async def work(files: AttemptFiles) -> list[StoredFile]:
        late = asyncio.ensure_future(files.save("large", b"x" * 5_000))
        await asyncio.sleep(0)
        kept = files.close()
        for waits in (late, files.save("small", b"x")):
            with pytest.raises(CannotSave, match="attempt is over"):
                await waits
        return [*kept, *files.close()]

    assert with_files(work) == []


def test_text_that_has_no_bytes_is_mended() -> None:
    async def work(files: AttemptFiles) -> list[StoredFile]:
        await files.save("a", "half \ud83d")
        return files.close()

    assert [each.content for each in with_files(work)] == [b"half ?"]


class WaitingStorage(InMemoryStorage):
    """Stores what it is given only when it is told to."""

    began, go_on = threading.Event(), threading.Event()

    def save(self, name: str | None, content: Any, max_length: int | None = None) -> str:
        self.began.set()
        assert self.go_on.wait(10), "nobody else could do anything meanwhile"
        return super().save(name, content, max_length)


def test_the_event_loop_goes_on_while_a_large_file_is_stored(settings: Any) -> None:
    settings.STORAGES = {**settings.STORAGES, "artifacts": {"BACKEND": "tests.test_saving_files.WaitingStorage"}}

    async def work(files: AttemptFiles) -> list[StoredFile]:
        saving = asyncio.ensure_future(files.save("large", b"x" * 5_000))
        await asyncio.to_thread(WaitingStorage.began.wait, 10)
        WaitingStorage.go_on.set()
        await saving
        return files.close()

    assert [each.name for each in with_files(work)] == ["large"]


def test_the_tool_answers_a_model_in_words() -> None:
    async def work(files: AttemptFiles) -> list[Any]:
        context: Any = SimpleNamespace(deps=files)
        picture = base64.b64encode(b"\x89PNG").decode()
        said = [
            await save_file(context, "a.md", "Grüße"),
            await save_file(context, "p.png", f" {picture[:4]}\n{picture[4:]} ", encoding="base64"),
            await save_file(context, "q.png", "no base64!", encoding="base64"),
            await save_file(context, "../q", "x"),
        ]
        return [*said, *[(each.name, each.content, each.media_type) for each in files.close()]]

    assert with_files(work) == [
        "Saved a.md (7 bytes).",
        "Saved p.png (4 bytes).",
        "Not saved. The content is not base64: Only base64 data is allowed. Send it again, or as text.",
        "Not saved. A file's name has no empty part, and none that is . or ..",
        ("a.md", "Grüße".encode(), "text/markdown"),
        ("p.png", b"\x89PNG", "image/png"),
    ]


def test_the_callable_of_the_page_saves_what_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "callables", {})
    page = ROOT / "docs" / "how-to" / "give-agents-files-to-save.md"
    (source,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    exec(compile(source, str(page), "exec"), {})
    (function,) = runtimes.callables.values()
    assert takes_files(function)

    async def work(files: AttemptFiles) -> list[Any]:
        result = await asyncio.to_thread(function, "", None, files=files.for_threads())
        return [result, *[(each.name, each.content, each.media_type) for each in files.close()]]

    assert with_files(work) == [
        {"rows": 2},
        ("prices/table.csv", b"model,usd\nsmall,0.15\nlarge,1.50", "text/csv"),
        ("logo.png", b"\x89PNG", "image/png"),
    ]


# -- sweeping ----------------------------------------------------------------------------------------------------------


def left_behind(count: int, attempt_id: uuid.UUID | None = None) -> list[str]:
    rows = [LooseObject(key=f"left/{uuid7()}", attempt_id=attempt_id or uuid.uuid4(), since=NOW) for _ in range(count)]
    announce(rows)
    announce(rows)  # as after a lost connection
    for row in rows:
        (Path(storages["artifacts"].location) / row.key).parent.mkdir(parents=True, exist_ok=True)  # type: ignore[attr-defined]
        (Path(storages["artifacts"].location) / row.key).write_bytes(b"x")  # type: ignore[attr-defined]
    return [row.key for row in rows]


def test_what_an_attempt_under_way_has_stored_is_left_alone(db: None, acme: Tenant, objects: Path) -> None:
    make_swarm(acme, [StepOf("gather")])
    (leased,) = desk.take(1, NOW)
    kept = left_behind(1, leased.token)
    left_behind(2)
    assert sweeping.sweep(now=NOW + LATER) == 2
    assert keys_in(objects) == set(kept)
    assert wholeness.files_left_behind(NOW + 4 * LATER) == []


def test_sweeping_is_bounded_and_few_statements(db: None, objects: Path, django_assert_num_queries: Any) -> None:
    left_behind(7)
    (objects / left_behind(1)[0]).unlink()  # its bytes were never stored
    with django_assert_num_queries(2):
        assert sweeping.sweep(now=NOW + LATER, most=5) == 5
    assert len(keys_in(objects)) == 2
    assert [sweeping.sweep(now=NOW + LATER) for _ in range(2)] == [3, 0]


def test_a_storage_that_is_down_is_not_asked_for_ever(db: None, objects: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_behind(20)
    asked: list[str] = []

    def refuses(key: str) -> None:
        asked.append(key)
        raise OSError("The store is down.")

    with monkeypatch.context() as broken:
        broken.setattr(storages["artifacts"], "delete", refuses)
        assert sweeping.sweep(now=NOW + LATER) == 0
    assert len(asked) == sweeping.GIVE_UP_AFTER
    assert sweeping.sweep(now=NOW + LATER) == 20
