"""What README and docs say is true: commands work, links lead somewhere, specs are valid, names are the right ones.

Conventions for writers of pages:

- A fence names its language. ``sh`` holds commands: those of ``manage.py`` that do no harm are run, the others are
  parsed; ``make`` targets must exist; addresses of ``curl`` must lead to a page. Another program has to be in
  ``OUTSIDE``. In a ``console`` transcript, lines after ``$`` are such commands.
- ``bash`` is a script; those of the page about the API are run as they stand, against a real server.
- ``yaml`` with a key ``swarm`` is a spec and must be valid; ``yaml broken`` must not be. A first line ``# name.yaml``
  makes it the file of that name for the commands that follow on the page.
"""

from __future__ import annotations

import importlib.util
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from django.core.management import CommandError, call_command, get_commands, load_command_class
from django.core.management.base import BaseCommand
from django.test import Client
from django.urls import resolve

from apps.providers.models import Provider, Region
from apps.swarms import specs
from apps.swarms.models import FailureCode
from apps.tenants.models import Tenant, User
from portal.admin_menu import MENU
from tests.browser import Daphne
from tests.specs import BRIEF, simulated

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"sh", "console", "bash", "yaml", "json", "python", "text", "mermaid", "sql"}
OUTSIDE = {"git", "cd", "kill", "echo", "jq", "sleep"}
"""Programs that are not ours and do what they say."""
HARMLESS = {"submit_swarm", "create_api_token", "spec_schema", "watchdog", "export_chargeback", "close_month"}
"""Commands that are run as they stand on the page, in a test database; --wait is left out, as nobody works there."""
ANY_ID = str(uuid.uuid4())


@dataclass(frozen=True)
class Fence:
    """A block between three backticks. ``line`` is where it begins in its page."""

    page: Path
    line: int
    info: tuple[str, ...]
    text: str

    @property
    def language(self) -> str:
        return self.info[0] if self.info else ""

    @property
    def commands(self) -> str:
        """The shell commands in it, one to a line."""
        if self.language == "console":
            return "\n".join(line[2:] for line in self.text.splitlines() if line.startswith("$ "))
        return self.text.replace("\\\n", " ") if self.language == "sh" else ""

    @property
    def file_name(self) -> str:
        """The name in its first line, if it stands for a file."""
        named = re.match(r"# ([\w.-]+\.ya?ml)\n", self.text)
        return named[1] if named else ""

    @property
    def is_spec(self) -> bool:
        return self.language == "yaml" and bool(re.search(r"^swarm:", self.text, re.MULTILINE))

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def fences(page: Path) -> Iterator[Fence]:
    """The fenced blocks of a page, in order."""
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), start=1))
    for number, line in lines:
        if opening := re.match(r"( *)(```+)(.*)", line):
            body = []
            for _, inner in lines:
                if inner.strip() == opening[2]:
                    break
                body.append(inner.removeprefix(opening[1]))
            yield Fence(page, number, tuple(opening[3].split()), "\n".join(body) + "\n")


def prose(page: Path) -> str:
    """The text of a page without its fenced blocks."""
    return re.sub(r"^( *)```.*?^\1```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def commands(fence: Fence) -> Iterator[list[str]]:
    """The simple commands of a shell block, as lists of words; assignments before them are left out."""
    for line in fence.commands.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set(";&|()"):
                while words and re.match(r"[A-Z_]+=", words[0]):
                    words.pop(0)
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


every_page = pytest.mark.parametrize("page", PAGES, ids=page_id)
ALL_FENCES = [fence for page in PAGES for fence in fences(page)]
ADRS = sorted((ROOT / "docs" / "adr").glob("*.md"))


# -- fences ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fence", ALL_FENCES, ids=str)
def test_a_fence_names_its_language_and_is_well_formed(fence: Fence) -> None:
    assert fence.language in LANGUAGES, f"{fence}: {fence.language or 'no language'}"
    match fence.language:
        case "json":
            json.loads(fence.text)
        case "python":
            compile(fence.text, str(fence), "exec")
        case "mermaid":
            assert fence.text.split()[0] in {"flowchart", "sequenceDiagram", "stateDiagram-v2"}
            assert all(fence.text.count(a) == fence.text.count(b) for a, b in ("[]", "()", "{}"))
            assert ";" not in fence.text, "it ends a statement, also inside a sentence"
        case "yaml":
            yaml.safe_load(fence.text)


@pytest.mark.parametrize("fence", [fence for fence in ALL_FENCES if fence.is_spec], ids=str)
def test_a_spec_is_valid_unless_it_is_said_to_be_broken(fence: Fence) -> None:
    if "broken" in fence.info:
        with pytest.raises(specs.SpecInvalid):
            specs.parse(fence.text)
    else:
        specs.parse(fence.text)


# -- commands --------------------------------------------------------------------------------------------------------


@pytest.fixture
def installation(db: None, acme: Tenant) -> None:
    """What the pages take for granted: the demo's tenants and users, the simulated provider, and OpenAI."""
    for slug in ("widget", "trial"):
        Tenant.objects.create(slug=slug, name=slug.title())
    for name in ("admin", "operator"):
        User.objects.create(username=name, is_superuser=True)
    simulated()
    openai = Provider.objects.create(name="openai", kind="openai", secret_name="OPENAI_API_KEY")
    Region.objects.create(provider=openai, name="global", base_url="https://api.openai.com/v1")


@pytest.mark.parametrize("page", [page for page in PAGES if any(fence.commands for fence in fences(page))], ids=page_id)
def test_the_commands_of_a_page_work(page: Path, installation: None, tmp_path: Path) -> None:
    broken: set[str] = set()
    for fence in fences(page):
        if fence.file_name:
            (tmp_path / fence.file_name).write_text(fence.text)
            broken.discard(fence.file_name)
            if "broken" in fence.info:
                broken.add(fence.file_name)
        for words in commands(fence):
            verify_command(words, fence, tmp_path, broken)


def verify_command(words: list[str], fence: Fence, folder: Path, broken: set[str]) -> None:
    program, *arguments = words
    match program.rsplit("/", 1)[-1]:
        case "make":
            for target in arguments:
                assert "=" in target or target in make_targets(), f"{fence}: make has no target {target}"
        case "export":
            assert all(re.match(r"[A-Z_]+=", word) for word in arguments), f"{fence}: {words}"
        case "curl":
            verify_curl(arguments, fence)
        case "python" | "python3" if arguments[0] == "-c":
            source, *given = arguments[1:]
            files = [str(folder / name) for name in given]
            subprocess.run([sys.executable, "-c", source, *files], check=True, capture_output=True)
        case "python" | "python3" if arguments[0] == "-m":
            assert importlib.util.find_spec(arguments[1]), f"{fence}: there is no module {arguments[1]}"
        case "python" | "python3":
            assert program == ".venv/bin/python", f"{fence}: only the environment's Python has what is needed"
            assert (ROOT / arguments[0]).is_file(), f"{fence}: {arguments[0]} is missing"
            if arguments[0] == "manage.py":
                verify_manage(arguments[1:], fence, folder, broken)
        case "daphne":
            assert importlib.util.find_spec("daphne")
        case other:
            assert other in OUTSIDE, f"{fence}: teach this test what {other} is"


def make_targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def verify_manage(arguments: list[str], fence: Fence, folder: Path, broken: set[str]) -> None:
    """The command exists and takes these arguments; one that does no harm is run."""
    name, *rest = arguments
    known = get_commands()
    assert name in known, f"{fence}: manage.py has no command {name}"
    if name == "simulate_provider":
        return  # it needs no Django, and its parser is its own
    app = known[name]
    command = app if isinstance(app, BaseCommand) else load_command_class(app, name)
    rest = [str(folder / word) if (folder / word).is_file() else word for word in rest]
    rest = [re.sub(r"^\$\w+$", ANY_ID, word) for word in rest]
    if "--output" in rest:
        place = rest.index("--output") + 1
        rest[place] = str(folder / rest[place])
    try:
        command.create_parser("manage.py", name).parse_args(rest)
    except CommandError as error:
        pytest.fail(f"{fence}: {error}")
    if name in HARMLESS:
        refusal = run(name, [word for word in rest if word != "--wait"])
        if any(Path(word).name in broken for word in rest):
            assert refusal, f"{fence}: it was to be refused"
            assert refusal.returncode == 2
        else:
            assert not refusal, f"{fence}: {refusal}"


def run(name: str, arguments: list[str]) -> CommandError | None:
    """Runs a command of ``manage.py``; what it refused with."""
    try:
        call_command(name, *arguments, stdout=io.StringIO(), stderr=io.StringIO())
    except CommandError as error:
        return error
    return None


def verify_curl(arguments: list[str], fence: Fence) -> None:
    """Its address is one of ours, and what it sends is JSON."""
    for option, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if option in {"-d", "--data", "--json"} and not value.startswith("@"):
            json.loads(value.replace("$", ""))
    addresses = [urlsplit(word) for word in arguments if word.startswith("http")]
    assert addresses, f"{fence}: curl without an address"
    for address in addresses:
        if address.port == 8000:
            path = re.sub(r"\$\w+|\{\w+\}", ANY_ID, address.path)
            assert resolve(path).url_name, f"{fence}: nothing answers at {path}"
        else:
            assert address.path.startswith(("/simulator/", "/v1/", "/health")), f"{fence}: {address.geturl()}"


@pytest.mark.processes
@pytest.mark.skipif(not shutil.which("bash") or not shutil.which("curl"), reason="needs bash and curl")
def test_the_scripts_about_the_api_work_as_they_stand(own_database: str, operator: User, tmp_path: Path) -> None:
    simulated()
    (tmp_path / "swarm.yaml").write_text(BRIEF)
    web = Daphne(own_database)
    script = "\n".join(fence.text for fence in fences(ROOT / "docs/how-to/use-the-api.md") if fence.language == "bash")
    for written, here in {
        "http://127.0.0.1:8000": web.url,
        "swarm.yaml": str(tmp_path / "swarm.yaml"),
        ".venv/bin/python": sys.executable,
    }.items():
        assert written in script
        script = script.replace(written, here)
    # Its example of an id stands for that of the swarm which was just submitted.
    first = "import json, sys; print(json.load(sys.stdin)['results'][0]['id'])"
    newest = f'$(command curl -s -H "Authorization: Bearer $TOKEN" $API/swarms/ | {sys.executable} -c "{first}")'
    script, count = re.subn(r"(?m)^ID=.*$", lambda _: f"ID={newest}", script)
    assert count == 1
    told = "curl() { command curl -o /dev/null -w '%{http_code} ' \"$@\"; }\n"
    web.start()
    try:
        done = subprocess.run(["bash", "-euc", told + script], cwd=ROOT, capture_output=True, text=True, check=True)
    finally:
        web.kill()
    # Who you are; submit; state, tasks, events, files; pause, resume, nothing to retry, terminate; no right to budgets.
    assert done.stdout.split() == ["200", "201", *["200"] * 6, "409", "200", "403", "200"]


# -- links -----------------------------------------------------------------------------------------------------------


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """Where the relative links and images of a page lead: a file or folder, and an anchor or nothing."""
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset|href)="([^"]+)"', text)
    for target in targets:
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield ((page.parent / path).resolve() if path else page), anchor


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, anchor in links(page):
        assert target.exists(), f"{target.relative_to(ROOT)} is missing"
        assert not anchor or anchor in anchors(target), f"{target.relative_to(ROOT)} has no heading #{anchor}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    queue = [PAGES[0]]
    while queue:
        page = queue.pop()
        if page in seen:
            continue
        seen.add(page)
        for target, _ in links(page):
            queue += [found for found in [target, *target.glob("*.md")] if found in PAGES]
    assert sorted(page_id(page) for page in set(PAGES) - seen) == []


# -- names -----------------------------------------------------------------------------------------------------------


@every_page
def test_no_page_names_what_only_we_know(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for what, pattern in {
        "a requirement's id": r"(?<![\w.])[OEPCIGAVDL]\d{1,2}(?![\w.])",
        "an issue's number": r"(?i)\bissues? #?\d+|(?<![\w&/#])#\d+\b",
        "a path of some machine": r"(?<![\w.])/(?:work|tmp|home|root|Users)/",
        "a day in the writing of it": r"(?i)\b(?:todo|fixme|tbd|coming soon)\b",
    }.items():
        assert not (found := re.search(pattern, text)), f"{what}: {found[0] if found else ''}"


@every_page
def test_settings_that_a_page_names_exist(page: Path) -> None:
    sources = [*ROOT.glob("portal/**/*.py"), *ROOT.glob("apps/**/*.py"), ROOT / "Makefile"]
    known = "\n".join(source.read_text() for source in sources if source.exists())
    for name in set(re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", page.read_text(encoding="utf-8"))):
        bare = name.removesuffix("_FILE")
        assert bare.endswith("_API_KEY") or bare in known, f"nothing reads {name}"


@every_page
def test_lists_of_the_admin_that_a_page_names_exist(page: Path) -> None:
    menu = {(group, title) for group, items in MENU for title, _, _ in items}
    for group, title in re.findall(r"\*\*([\w ]+) → ([^*→]+?)(?: → \w+)?\*\*", prose(page)):
        assert (group, title) in menu, f"the sidebar has no {group} → {title}"


@every_page
def test_api_addresses_that_a_page_names_exist(page: Path) -> None:
    for path in re.findall(r"`(?:[A-Z]+ )?(/(?:api|livez|readyz|metrics)[^`?\s]*)", prose(page)):
        found = resolve(re.sub(r"\{\w+\}|\$\w+", ANY_ID, path))
        assert found.url_name or path == "/api/v1/", f"nothing answers at {path}"


def test_every_failure_code_is_explained() -> None:
    page = ROOT / "docs/how-to/recover-from-failures.md"
    assert set(re.findall(r"^\| `(\w+)` \|", page.read_text(), re.MULTILINE)) == set(FailureCode.values)


# -- decision records, readme ----------------------------------------------------------------------------------------


def test_decision_records_are_numbered_without_gaps() -> None:
    assert [page.name[:5] for page in ADRS] == [f"{number:04}-" for number in range(1, len(ADRS) + 1)]


@pytest.mark.parametrize("page", ADRS, ids=page_id)
def test_a_decision_record_is_half_a_page_with_its_three_parts(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {int(page.name[:4])}. ")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
    assert len(text.split()) < 400


def test_the_readme_shows_the_product_and_its_two_commands() -> None:
    readme = PAGES[0].read_text(encoding="utf-8")
    assert (ROOT / "docs/images/console.png", "") in list(links(PAGES[0]))
    assert [words for fence in fences(PAGES[0]) for words in commands(fence)][-2:] == [
        ["make", "run"],
        ["make", "test"],
    ]
    assert "shields.io" not in readme


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_a_probe_needs_a_host_that_is_allowed_and_no_login(path: str, db: None, client: Client) -> None:
    assert client.get(path, HTTP_HOST="10.0.0.17").status_code == 400
    assert client.get(path, HTTP_HOST="127.0.0.1").status_code in (200, 503)
