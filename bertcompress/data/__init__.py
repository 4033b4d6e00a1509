"""Data sets: where they come from, how they are split, and how they become batches of tokens."""
