"""Reading request bodies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any

from django.conf import settings
from rest_framework.exceptions import APIException, ParseError
from rest_framework.parsers import JSONParser


class BodyTooLarge(APIException):
    """The body has more bytes than the API reads."""

    status_code = 413
    default_code = "too_large"


class BoundedJSONParser(JSONParser):
    """JSON that fits in ``DATA_UPLOAD_MAX_MEMORY_SIZE`` and holds only text that the database can hold."""

    @property
    def most(self) -> int:
        """Bytes of the largest body that is read."""
        limit: int = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        return limit

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        """The value of the body. Raises ParseError with what is wrong, BodyTooLarge beyond the limit."""
        most = self.most
        raw = stream.read(most + 1)
        if len(raw) > most:
            raise BodyTooLarge(f"The body is larger than {most:,} bytes.")
        try:
            data = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
        except RecursionError:
            raise ParseError("The body is nested too deeply.") from None
        except ValueError as error:
            raise ParseError(f"The body is not JSON: {error}") from None
        # Only an escape can bring these in, and escapes are rare: most bodies are not walked.
        if b"\\u0000" in raw or b"\\ud" in raw.lower():
            return self.verified(data)
        return data

    def verified(self, data: Any) -> Any:
        """The value, when all of its text can be stored. Raises ParseError."""
        if not _is_storable(data):
            raise ParseError(UNSTORABLE)
        return data


class UnstorableRow(dict[str, Any]):
    """Stands for a row whose text cannot be stored."""


class RowsParser(BoundedJSONParser):
    """JSON of many rows, in which text that cannot be stored spoils only its own row: an UnstorableRow."""

    most = 16 * 2**20

    def verified(self, data: Any) -> Any:
        if not isinstance(data, list):
            return data if _is_storable(data) else UnstorableRow()
        return [row if _is_storable(row) else UnstorableRow() for row in data]


UNSTORABLE = "Text must not hold NUL characters or halves of surrogate pairs."


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _is_storable(data: Any) -> bool:
    waiting = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            if "\x00" in value or any("\ud800" <= char <= "\udfff" for char in value):
                return False
        elif isinstance(value, dict):
            waiting.extend(value)
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return True
