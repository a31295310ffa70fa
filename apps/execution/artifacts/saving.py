"""What agents save files with: the rules of names and limits, for callables and as a tool of models."""

from __future__ import annotations

import asyncio
import base64
import binascii
import mimetypes
from typing import Any, Literal

from pydantic_ai import RunContext, Tool

from apps.execution.artifacts.storing import FileStore, StoredFile
from apps.execution.errors import CannotSave
from apps.execution.leases import Leased
from apps.execution.models.artifact import clean_media_type, clean_name

_TYPES = mimetypes.MimeTypes()  # Python's own list, the same on every machine
_TYPES.add_type("text/markdown", ".md")  # what models write most
TOOL_TRIES = 5
"""How often in a row a model may call the tool with what is not even its arguments before its attempt fails."""


class AttemptFiles:
    """The files of one attempt, in its event loop. They are kept when it succeeds; of one name, the last."""

    def __init__(self, store: FileStore, leased: Leased) -> None:
        self._store = store
        self._leased = leased
        self._made: dict[str, StoredFile] = {}
        self._turn = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._is_open = True

    async def save(self, name: str, data: bytes | str, media_type: str | None = None) -> None:
        """Saves a file; text as UTF-8. Raises CannotSave with what to do instead.

        Without a media type, it is the one that the name's ending stands for.
        """
        name, media_type, content = self._checked(name, data, media_type)
        async with self._turn:
            if name not in self._made and len(self._made) >= self.most:
                raise CannotSave(
                    f"{len(self._made):,} files are saved, and a task has no more than that. Put more into one file, "
                    "or replace one that is saved by using its name."
                )
            stored = await self._store.store(self._leased, name, media_type, content)
            self._verify_open()
            self._made[name] = stored

    def close(self) -> list[StoredFile]:
        """The attempt is over: nothing more is saved. All that was."""
        self._is_open = False
        return list(self._made.values())

    @property
    def most(self) -> int:
        """How many files it may save."""
        return self._store.limits.per_task

    def for_threads(self) -> ThreadFiles:
        """The same for a callable that runs in a thread."""
        return ThreadFiles(self, self._loop)

    def _verify_open(self) -> None:
        if not self._is_open:
            raise CannotSave("The attempt is over: what is saved now belongs to nothing.")

    def _checked(self, name: Any, data: Any, media_type: Any) -> tuple[str, str, bytes]:
        self._verify_open()
        if not isinstance(name, str):
            raise CannotSave(f"A file's name is text, not {type(name).__name__}.")
        match data:
            case str():
                content = data.encode("utf-8", "replace")  # half of a surrogate pair has no bytes
            case bytes() | bytearray() | memoryview():
                content = bytes(data)
            case _:
                raise CannotSave(f"A file's content is bytes or text, not {type(data).__name__}.")
        try:
            name = clean_name(name)
            kind = clean_media_type(media_type) if media_type else _type_of(name, is_text=isinstance(data, str))
        except ValueError as error:
            raise CannotSave(str(error)) from None
        largest = self._store.limits.largest
        if len(content) > largest:
            raise CannotSave(
                f"{name} has {len(content):,} bytes, and a file has at most {largest:,}. Save less, or several files."
            )
        return name, kind, content


class ThreadFiles:
    """The files of one attempt, for code that runs in a thread of its own."""

    def __init__(self, files: AttemptFiles, loop: asyncio.AbstractEventLoop) -> None:
        self._files = files
        self._loop = loop

    def save(self, name: str, data: bytes | str, media_type: str | None = None) -> None:
        """As ``AttemptFiles.save``; returns when the file is saved."""
        asyncio.run_coroutine_threadsafe(self._files.save(name, data, media_type), self._loop).result()


def _type_of(name: str, *, is_text: bool) -> str:
    found, packed = _TYPES.guess_type(name)
    return found if found and not packed else ("text/plain" if is_text else "application/octet-stream")


async def save_file(
    context: RunContext[AttemptFiles | None],
    name: str,
    content: str,
    media_type: str | None = None,
    encoding: Literal["text", "base64"] = "text",
) -> str:
    """Save a file with your result. People can download it when the task is done.

    Args:
        name: The file's name, such as report.md or data/rows.csv. A name used before replaces that file.
        content: All of the file's content.
        media_type: Such as text/markdown. Without it, the name's ending decides.
        encoding: base64 when the content is a binary file in base64.
    """
    assert context.deps is not None, "whoever offers the tool gives it files"
    try:
        data = _decoded(content) if encoding == "base64" else content
        await context.deps.save(name, data, media_type)
    except CannotSave as error:
        return f"Not saved. {error}"
    size = len(data) if isinstance(data, bytes) else len(data.encode("utf-8", "replace"))
    return f"Saved {name} ({size:,} bytes)."


def _decoded(content: str) -> bytes:
    try:
        return base64.b64decode("".join(content.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise CannotSave(f"The content is not base64: {error}. Send it again, or as text.") from None


SAVE_FILE: Tool[AttemptFiles | None] = Tool(save_file, takes_ctx=True, max_retries=TOOL_TRIES)
