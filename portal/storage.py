"""Where objects lie, for the storages that ``STORAGES`` names: in files of this machine, or in a bucket."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from django.core.files.base import File
from django.core.files.storage import FileSystemStorage, Storage
from whitenoise.storage import CompressedStaticFilesStorage


class Described(File):  # type: ignore[type-arg]
    """A file to store, with its media type and what else a bucket keeps beside it as the object's metadata (ASCII).

    Local files have no place for either: the row that names such a file says the same, and a copy of the folder is of
    no use without the database anyhow. In a bucket they serve who looks at it with other tools, and its own rules.
    """

    def __init__(self, file: IO[bytes], *, media_type: str, metadata: Mapping[str, str]) -> None:
        super().__init__(file)
        self.content_type = media_type
        self.metadata = dict(metadata)


def stream(storage: Storage, name: str) -> Any:
    """What is stored under a name, to ``read(size)`` from front to back and ``close``; nothing is read in advance.

    Raises FileNotFoundError.
    """
    file = storage.open(name)
    # A file of django-storages loads all of the object before the first byte can be read.
    found = getattr(file, "obj", None)
    return file if found is None else found.get()["Body"]


class StaticFilesStorage(CompressedStaticFilesStorage):
    """Files of the site, whose addresses stay what they are: a page names twenty, and each is put together once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._urls: dict[str, str] = {}

    def url(self, name: str | None) -> str:
        found = self._urls.get(name or "")
        if found is None:
            found = self._urls[name or ""] = str(super().url(name))
        return found


class WholeFileStorage(FileSystemStorage):
    """Local files that appear under their name only when all of their bytes are on the disk.

    What is saved under a name that is taken replaces it, as in S3. A process that dies while it writes leaves
    ``.NAME.part`` behind, which the next one to write that name overwrites and ``delete`` removes; lists leave such
    files out.
    """

    def __init__(self, location: str | Path) -> None:
        super().__init__(location=str(location), allow_overwrite=True)

    def _save(self, name: str, content: File[Any]) -> str:
        path = Path(self.path(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _part_of(path)
        with part.open("wb") as file:
            for chunk in content.chunks():
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # its new name is on the disk, too
        finally:
            os.close(directory)
        return path.relative_to(self.location).as_posix()

    def delete(self, name: str) -> None:
        super().delete(name)
        _part_of(Path(self.path(name))).unlink(missing_ok=True)

    def listdir(self, path: str) -> tuple[list[str], list[str]]:
        directories, files = super().listdir(path)
        return directories, [name for name in files if not (name.startswith(".") and name.endswith(".part"))]


def _part_of(path: Path) -> Path:
    """Where a file is written until it is whole."""
    return path.with_name(f".{path.name}.part")


def bucket_options(bucket: str, endpoint_url: str, **options: Any) -> dict[str, Any]:
    """The options of django-storages' S3 backend for a bucket of AWS, or of the server at ``endpoint_url``."""
    from botocore.config import Config  # takes a while, and most commands of most installations never need it

    # Whoever waits for the store here is a worker that could do something else, and tries again later anyhow.
    config: dict[str, Any] = {"connect_timeout": 5, "read_timeout": 60, "retries": {"total_max_attempts": 2}}
    if endpoint_url:
        # Servers other than AWS's are reached by one name, and know only some of the newer checksums.
        config |= {"s3": {"addressing_style": "path"}, "request_checksum_calculation": "when_required"}
        config |= {"response_checksum_validation": "when_required"}
        options["endpoint_url"] = endpoint_url
    return {
        "bucket_name": bucket,
        "default_acl": None,
        "file_overwrite": True,
        "client_config": Config(signature_version="s3v4", **config),
        **options,
    }
