"""A run's YAML file: read with positions, checked before anything runs, described as JSON Schema. Imports no torch."""

from __future__ import annotations

from bertcompress.config.checks import EVALUATIONS
from bertcompress.config.run_config import RunConfig, TeacherConfig, load_config, parse_config
from bertcompress.config.schema import schema
from bertcompress.data.yaml_positions import ConfigFileError, Problem

__all__ = [
    "EVALUATIONS",
    "ConfigFileError",
    "Problem",
    "RunConfig",
    "TeacherConfig",
    "load_config",
    "parse_config",
    "schema",
]
