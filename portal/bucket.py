"""A bucket whose objects carry metadata. Apart, as boto3 takes a while to load."""

from __future__ import annotations

from typing import Any

from storages.backends.s3 import S3Storage


class BucketStorage(S3Storage):
    """An S3 storage that keeps what :class:`portal.storage.Described` says of a file as the object's metadata."""

    def _get_write_parameters(self, name: str, content: Any = None) -> dict[str, Any]:
        parameters: dict[str, Any] = super()._get_write_parameters(name, content)
        if metadata := getattr(content, "metadata", None):
            parameters["Metadata"] = metadata
        if media_type := getattr(content, "content_type", None):
            parameters["ContentType"] = media_type
        return parameters
