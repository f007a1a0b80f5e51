"""Other methods on the same tasks, to compare with."""
