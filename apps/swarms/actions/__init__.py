"""Writes over swarms and all that belongs to them; each is one transaction with its audit row and events."""
