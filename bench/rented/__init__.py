"""Tests, figures and sanitizers on a card that is rented for minutes; see `command.py`."""
