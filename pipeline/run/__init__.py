"""From configurations to cells, and from cells to tables on disk."""
