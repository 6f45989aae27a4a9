"""What is measured against named peers, one module for each suite."""
