"""What the suites share: rows and their checks, data, peers, the machine, results files."""
