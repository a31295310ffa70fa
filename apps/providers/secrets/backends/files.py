"""Keys in files of one folder, called like the secrets, as Kubernetes and Docker mount them."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

from apps.providers.secrets.backend import AccessRefused, BackendDown, Reading, SecretMissing, reading_of


class Files:
    """A folder. Kubernetes swaps a symbolic link in it; a file is opened once, so that it is read of one piece."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def read(self, name: str) -> Reading:
        if "/" in name or name.startswith("."):
            raise SecretMissing(f"No file of {self._folder} can be called {name}.")
        try:
            with (self._folder / name).open(encoding="utf-8") as file:
                value = file.read()
                written = os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            self.health()
            raise SecretMissing(f"There is no file {name} in {self._folder}.") from None
        except PermissionError:
            raise AccessRefused(f"The file {name} in {self._folder} is not readable for this process.") from None
        except (IsADirectoryError, UnicodeDecodeError):
            raise SecretMissing(f"{name} in {self._folder} is no text file.") from None
        except OSError as error:
            raise BackendDown(f"{self._folder} cannot be read: {error.strerror}.") from None
        return reading_of(name, value, version=f"{dt.datetime.fromtimestamp(written, dt.UTC):%Y-%m-%dT%H:%M:%SZ}")

    def health(self) -> None:
        try:
            os.scandir(self._folder).close()
        except PermissionError:
            raise AccessRefused(f"The folder {self._folder} is not readable for this process.") from None
        except OSError as error:
            raise BackendDown(f"The folder {self._folder} cannot be read: {error.strerror}.") from None

    def upkeep(self) -> None:
        return None
