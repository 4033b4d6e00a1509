"""Task-agnostic evaluation: models fine-tuned on several tasks, each with a small grid and seeds."""
