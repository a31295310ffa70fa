"""Keys in variables of the process: NAME, or NAME_FILE with the path of a file."""

from __future__ import annotations

import os
import re

from apps.providers.secrets.backend import AccessRefused, Reading, SecretMissing, reading_of
from portal import env


class Environment:
    """A variable stays as it was when the process started; a file is read anew each time."""

    def read(self, name: str) -> Reading:
        if not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
            raise SecretMissing(f"No variable can be called {name}: use capitals, digits and _, as OPENAI_API_KEY.")
        if name in env.read:
            raise AccessRefused(f"{name} is a setting of Swarmdesk itself, and not the key of a provider.")
        path = os.environ.get(f"{name}_FILE", "")
        try:
            value = env.current(name)
        except OSError as error:
            raise SecretMissing(f"{name}_FILE names {path}, which cannot be read: {error.strerror}.") from None
        if not value:
            raise SecretMissing(f"Neither {name} nor {name}_FILE is set for this process.")
        return reading_of(name, value)

    def health(self) -> None:
        return

    def upkeep(self) -> None:
        return None
