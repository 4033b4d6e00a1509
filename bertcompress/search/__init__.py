"""Searches that any number of processes share through a storage of optuna's."""
