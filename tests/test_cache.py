"""The optional Redis cache: used while it is there, missed by nobody when it is not."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apps.swarms import status
from apps.tenants.models import Tenant
from portal.cache import ForgivingRedisCache
from tests.processes import free_port, wait_until
from tests.swarms import StepOf, make_swarm

SERVER = shutil.which("redis-server")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], ForgivingRedisCache]]:
    """A Redis server of its own, and the cache that talks to it."""
    if SERVER is None:
        pytest.skip("no Redis: install it (apt-get install redis-server) and run again")
    port = free_port()
    command = [SERVER, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    cache = ForgivingRedisCache(f"redis://127.0.0.1:{port}", {})

    def answers() -> bool:
        cache.set("probe", 1)
        return bool(cache.get("probe") == 1)

    try:
        wait_until(answers, "Redis answers")
        yield process, cache
    finally:
        process.kill()
        process.wait()


def test_values_are_kept_while_the_server_is_there(redis: tuple[Any, ForgivingRedisCache]) -> None:
    _, cache = redis
    cache.set("a", {"n": 1})
    assert cache.get("a") == {"n": 1}
    assert cache.get_many(["a", "b"]) == {"a": {"n": 1}}
    assert cache.add("a", 2) is False
    assert cache.delete("a") is True
    assert cache.get("a", "nothing") == "nothing"


def test_a_cache_that_is_down_misses_and_forgets_and_never_fails(redis: tuple[Any, ForgivingRedisCache]) -> None:  # O6
    process, cache = redis
    cache.set("a", 1)
    process.kill()
    process.wait()
    assert cache.get("a", "nothing") == "nothing"
    cache.set("a", 2)
    assert cache.get_many(["a"]) == {}
    assert cache.set_many({"a": 1}) == []
    assert cache.delete("a") is False


@pytest.mark.django_db
def test_the_status_of_a_swarm_is_the_same_with_the_cache_and_without(
    redis: tuple[Any, ForgivingRedisCache], acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, cache = redis
    swarm = make_swarm(acme, [StepOf("a", items=3)])
    monkeypatch.setattr(status, "cache", cache)
    computed = status.swarm_status(swarm)
    assert status.swarm_status(swarm) == computed
    process.kill()
    process.wait()
    assert status.swarm_status(swarm) == computed
