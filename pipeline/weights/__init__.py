"""Weight states: from a file, or by a law of random weights."""
