"""What is told when the database cannot be used."""

from django.db import OperationalError


class DatabaseUnavailable(OperationalError):
    """No connection can be made. Its text is one line for a human: what was tried, why it failed, what to do.

    It never holds a password. It is an OperationalError, so code that outlives a lost database handles it too.
    """
