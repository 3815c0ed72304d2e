"""Images: sets by name, batches, and null maps, which no network made."""
