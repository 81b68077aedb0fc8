"""What a user can put right. `python -m uqbench` prints one of these as a single line and exits with status 2."""


class UqbenchError(Exception):
    """Base of the errors whose message says what is wrong, where, and what to do."""


class ConfigError(UqbenchError, ValueError):
    """A setting is unknown, of the wrong type, out of range, or does not fit the others."""


class DataError(UqbenchError):
    """A data set is missing, unreadable or not what its configuration says."""


class CheckpointError(UqbenchError):
    """A checkpoint is missing, damaged, or belongs to another network."""


class TrainingError(UqbenchError):
    """Training cannot go on, for example because the loss is not finite."""


def check(condition: bool, message: str) -> None:
    """Raises `ConfigError` with ``message`` unless the condition holds; for the ranges of settings."""
    if not condition:
        raise ConfigError(message)
