"""The lock files: they cover what pyproject.toml asks for, pin it by hash, and name no place to get it from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = ("requirements.txt", "requirements-dev.txt", "requirements-secrets.txt")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted() -> tuple[set[str], set[str]]:
    """Names of the run-time and of the development dependencies."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    names = [
        {normal(re.match(r"[\w.-]+", line)[0]) for line in lines}  # type: ignore[index]
        for lines in (project["project"]["dependencies"], project["dependency-groups"]["dev"])
    ]
    return names[0], names[1]


def locked(file: str) -> dict[str, str]:
    """Names and versions."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pairs = [(normal(found[1]), found[2]) for line in lines if (found := re.match(r"([\w.-]+)==([^ ;\\]+)", line))]
    return dict(pairs)


def test_they_cover_what_is_asked_for() -> None:
    run_time, development = wanted()
    assert run_time - locked(FILES[0]).keys() == set()
    assert (run_time | development) - locked(FILES[1]).keys() == set()


def test_the_extras_are_locked_together_in_versions_that_are_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [line for each in project["optional-dependencies"].values() for line in each]
    extras = {normal(re.match(r"[\w.-]+", line)[0]) for line in lines}  # type: ignore[index]
    run_time, development, both = (locked(file) for file in FILES)
    assert extras - both.keys() == set()
    assert {name: version for name, version in both.items() if development.get(name) != version} == {}
    assert run_time.items() <= both.items()


def test_tests_run_on_the_versions_that_users_get() -> None:
    run_time, development = locked(FILES[0]), locked(FILES[1])
    assert {name: version for name, version in run_time.items() if development.get(name) != version} == {}


@pytest.mark.parametrize("file", FILES)
def test_every_python_gets_the_versions_that_were_tested(file: str) -> None:
    found = re.findall(r"^([\w.-]+)==\S+ ; (.*?) ?\\$", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    names = [name for name, _ in found]
    assert [(name, marker) for name, marker in found if names.count(name) > 1 and "python_full_version" in marker] == []


@pytest.mark.parametrize("file", FILES)
def test_every_package_has_hashes_and_nothing_names_an_index(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert not re.search(
        r"^\s*-|://|find-links|index", re.sub(r"^    --hash=sha256:\w{64}.*$", "", text, flags=re.M), re.M
    )
    entries = re.split(r"\n(?=[\w.-]+==)", text.partition("\n" + next(iter(locked(file))))[2])
    assert all("--hash=sha256:" in entry for entry in entries)
