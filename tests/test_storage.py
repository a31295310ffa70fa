"""Where objects lie: files of this machine that are whole or not there, and buckets of S3."""  # D4

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages

from apps.execution import archiving, results
from apps.execution.artifacts.saving import AttemptFiles
from apps.execution.artifacts.storing import FileLimits, FileStore, StoredFile
from apps.execution.errors import ArtifactUnreadable
from apps.execution.models import Archive, Artifact
from apps.tenants.models import Tenant
from portal.storage import WholeFileStorage, bucket_options
from tests import desk
from tests.archives import archived, document, files_in, terminated
from tests.processes import ROOT
from tests.swarms import NOW, StepOf, make_swarm

KEYS = {"access_key": "test-key", "secret_key": "test-secret"}


# -- files -------------------------------------------------------------------------------------------------------------


def test_what_is_saved_replaces_what_was_there(tmp_path: Path) -> None:
    storage = WholeFileStorage(tmp_path)
    for content in (b"first, and longer", b"second"):
        assert storage.save("a/b/c.gz", ContentFile(content)) == "a/b/c.gz"
    assert storage.open("a/b/c.gz").read() == b"second"
    assert storage.listdir("a/b") == ([], ["c.gz"])


def test_a_write_that_breaks_off_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    class Breaks(ContentFile):
        def chunks(self, chunk_size: int | None = None) -> Iterator[bytes]:
            yield b"half"
            raise OSError("The disk is full.")

    storage = WholeFileStorage(tmp_path)
    storage.save("a/kept", ContentFile(b"whole"))
    for name in ("a/kept", "a/new"):
        with pytest.raises(OSError, match="disk is full"):
            storage.save(name, Breaks(b""))
    assert storage.open("a/kept").read() == b"whole"
    assert not storage.exists("a/new")
    assert storage.listdir("a") == ([], ["kept"])
    storage.save("a/new", ContentFile(b"whole"))
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"kept", "new", ".kept.part"}
    storage.delete("a/kept")
    storage.delete("a/never")
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"new"}


def test_names_do_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="traversal"):
        WholeFileStorage(tmp_path / "in").save("../out", ContentFile(b"x"))


# -- a bucket ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def s3() -> Iterator[str]:
    """The address of an S3 server on loopback with a bucket called desk."""
    from moto.server import ThreadedMotoServer  # takes half a second, which other test processes need not spend

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
    )
    client.create_bucket(Bucket="desk")
    try:
        yield address
    finally:
        client.close()
        server.stop()


def in_bucket(address: str, bucket: str = "desk", **more: Any) -> dict[str, dict[str, Any]]:
    options = bucket_options(bucket, address, location="archive", object_parameters={"ContentType": "application/gzip"})
    return {
        **files_in(Path("unused")),
        "archive": {"BACKEND": "portal.bucket.BucketStorage", "OPTIONS": {**options, **KEYS, **more}},
        "artifacts": {
            "BACKEND": "portal.bucket.BucketStorage",
            "OPTIONS": {**bucket_options(bucket, address, location="artifacts"), **KEYS, **more},
        },
    }


def test_archives_in_a_bucket(own_database: str, acme: Tenant, settings: Any, s3: str) -> None:  # O4
    settings.STORAGES = in_bucket(s3)
    swarm = terminated(acme)
    left = f"{acme.pk}/{swarm.pk}/0123.json.gz"
    storages["archive"].save(left, ContentFile(b"what an earlier try left"))
    archive = archived(swarm)
    assert document(archive)["swarm"]["id"] == str(swarm.pk)
    assert not storages["archive"].exists(left)
    assert storages["archive"].listdir(f"{acme.pk}/{swarm.pk}") == ([], [f"{archive.sha256}.json.gz"])
    client = storages["archive"].connection.meta.client  # type: ignore[attr-defined]
    found = client.head_object(Bucket="desk", Key=f"archive/{archive.key}")
    assert (found["ContentLength"], found["ContentType"]) == (archive.size, "application/gzip")
    assert "ContentEncoding" not in found, "or somebody on the way would unpack it"


def test_files_of_agents_in_a_bucket(own_database: str, acme: Tenant, settings: Any, s3: str) -> None:  # E8 D4
    settings.STORAGES = in_bucket(s3)
    data = bytes(range(256)) * 40_000  # 10 MB: sent in parts
    swarm = make_swarm(acme, [StepOf("write")])
    (leased,) = desk.take(1, NOW)

    async def save() -> list[StoredFile]:
        announced = asyncio.get_running_loop().create_future()
        announced.set_result(None)
        store = FileStore(lambda loose: announced, limits=FileLimits(1_000, 2 * len(data), 9), now=lambda: NOW)
        files = AttemptFiles(store, leased)
        await files.save("maps/größe.bin", data)
        store.close()
        return files.close()

    made = asyncio.run(save())
    results.write([desk.done(leased, made, NOW)], now=NOW)
    artifact = Artifact.objects.get()
    client = storages["artifacts"].connection.meta.client  # type: ignore[attr-defined]
    found = client.head_object(Bucket="desk", Key=f"artifacts/{artifact.key}")
    assert (found["ContentLength"], found["ContentType"]) == (len(data), "application/octet-stream")
    assert found["Metadata"] == {
        "swarm": str(swarm.pk),
        "type": "application/octet-stream",
        "created": "2026-11-21T12:00:00+00:00",
    }
    with artifact.open() as file:
        assert file.read(5) == data[:5]
        assert file.read() == data[5:]
    client.put_object(Bucket="desk", Key=f"artifacts/{artifact.key}", Body=data[:-1] + b"x")
    with artifact.open() as file, pytest.raises(ArtifactUnreadable, match="not what was saved"):
        file.read()
    storages["artifacts"].delete(artifact.key)
    with pytest.raises(ArtifactUnreadable, match="not in storage any more"):
        artifact.open()
    settings.STORAGES = in_bucket(s3, "gone")
    with pytest.raises(ArtifactUnreadable):
        artifact.open()


def test_a_bucket_that_is_not_there_is_told_and_tried_again(
    own_database: str, acme: Tenant, settings: Any, s3: str
) -> None:
    settings.STORAGES = in_bucket(s3, "gone")
    terminated(acme)
    archiving.hand_out(now=NOW)
    archive = Archive.objects.get()
    with pytest.raises(Exception, match="bucket does not exist"):
        archiving.store(archive.pk)
    archive.refresh_from_db()
    assert "bucket does not exist" in archive.error
    assert "test-secret" not in archive.error
    settings.STORAGES = in_bucket(s3)
    assert archiving.store(archive.pk)


def test_the_environment_names_the_bucket(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    variables = {
        "STORAGE_BUCKET": "desk",
        "STORAGE_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "AKID",
        "AWS_SECRET_ACCESS_KEY_FILE": str(secret),
        "DJANGO_SETTINGS_MODULE": "portal.settings",
    }
    program = """
import django, json
django.setup()
from django.core.files.storage import storages
found = storages["archive"]
client = found.connection.meta.client
style = client.meta.config.s3["addressing_style"]
print(json.dumps([found.bucket_name, found.location, client.meta.endpoint_url, found.secret_key, style]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["desk", "archive", "http://127.0.0.1:9", "s3cret", "path"]
