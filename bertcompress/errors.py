"""The exceptions that bertcompress raises; each message says what, where, got, allowed and the fix."""


class BertCompressError(Exception):
    """Base of every error that bertcompress raises on purpose."""


class ConfigError(BertCompressError, ValueError):
    """A setting, size, order or name that cannot work; raised before anything is trained."""


class DataError(BertCompressError):
    """A data set that is missing, malformed, or has no labels to score against."""


class CheckpointError(BertCompressError):
    """A saved model that is missing, damaged, truncated, or of a newer format than this library reads."""


class ConversionError(BertCompressError):
    """An encoder that cannot be expressed in the architecture it should be converted to."""


class TrainingError(BertCompressError):
    """Training that cannot go on, such as a loss that is no longer finite."""


class RunError(BertCompressError):
    """A run folder that is in use, or that belongs to another configuration."""


def allowed(values: object) -> str:
    """Return the values as text for an error message, in their own order."""
    return ", ".join(repr(value) if isinstance(value, str) else str(value) for value in values)  # type: ignore[attr-defined]
