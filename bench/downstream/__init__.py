"""What compressed word embeddings cost a sentence encoder on a real task; see `command.py`."""
