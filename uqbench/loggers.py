"""Weights & Biases, held so that no run is ever left open: offline without a key, finished also after an exception.

``finishing`` is the scope of a run's loggers. Imports stand where they are used: wandb alone takes a second.
"""

from __future__ import annotations

import netrc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from uqbench.errors import UqbenchError

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

_TAG_LENGTH = 64  # wandb refuses a run whose tags are longer


def wandb_logger(
    dirpath: str,
    run_id: str,
    project: str = "uqbench",
    entity: str | None = None,
    name: str | None = None,
    group: str | None = None,
    job_type: str | None = None,
    tags: list[str] | None = None,
) -> Any:  # a WandbLogger: a name that is not imported here would keep the validator from reading the hints
    """A Lightning `WandbLogger` whose run starts when ``finishing`` is entered; building it touches nothing.

    Args:
        dirpath: The run directory; wandb writes to ``<dirpath>/wandb``.
        run_id: The same for the same configuration, so that a resumed run continues on the server. Offline, every start
            leaves a folder of its own under that id, which ``wandb sync`` uploads in order as one run.
        project: The project on the server.
        entity: The team or user; None for the key's owner.
        name: What the run is called in lists.
        group: Everything but the seed, so that seeds are averaged.
        job_type: The method.
        tags: What runs are filtered by.
    """
    from lightning.pytorch.loggers import WandbLogger
    from wandb import Settings

    return WandbLogger(
        name=name,
        project=project,
        entity=entity,
        id=run_id,
        resume="allow",
        save_dir=dirpath,
        group=group,
        job_type=job_type,
        tags=_tags(tags or []),
        # Not Lightning's offline=True: it sets WANDB_MODE in the environment, where the next run of a multirun would
        # take it for the user's wish.
        mode=wandb_mode(),
        # The console is ours: wandb neither prints nor wraps stdout, which would also break the progress bar.
        settings=Settings(silent=True, console="off"),
    )


def wandb_mode() -> str:
    """The mode to start wandb in: what ``WANDB_MODE`` says, else ``online`` with a key and ``offline`` without."""
    # Passed on even when wandb would read it itself: it does so once per process, not once per run.
    return os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")


@contextmanager
def finishing(loggers: Sequence[Logger], config: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Starts the loggers with the run's configuration, and closes them however the block ends.

    A wandb run that is left open would be taken up by the next run of a multirun, and shown as crashed on the server.
    It is finished with exit code 0, or 1 after any exception, Ctrl-C included.

    Args:
        loggers: What the trainer logs to.
        config: The resolved run configuration, of plain containers.
    """
    exit_code = 1
    try:
        for logger in loggers:
            _start(logger, config)
        yield
        exit_code = 0
    except SystemExit as error:
        exit_code = 0 if error.code in (None, 0) else 1  # Lightning turns Ctrl-C into SystemExit(1)
        raise
    finally:
        for logger in loggers:
            _finish(logger, exit_code)


def is_wandb(logger: object) -> bool:
    """Whether this is Lightning's ``WandbLogger``; answers without importing wandb."""
    from lightning.pytorch.loggers import WandbLogger

    return isinstance(logger, WandbLogger)


def destinations(loggers: Sequence[Logger]) -> list[str]:
    """Where a reader finds what was logged to wandb: the run's address, or its folder where it is offline."""
    runs = [logger._experiment for logger in loggers if is_wandb(logger)]  # type: ignore[attr-defined]
    places = (run.url or (str(Path(run.dir).parent) if run.dir else None) for run in runs if run is not None)
    return [place for place in places if place]


def _start(logger: Logger, config: Mapping[str, Any] | None) -> None:
    """Opens the logger's files, or its connection, and writes the configuration to it."""
    if is_wandb(logger):
        import wandb
        from wandb.errors import Error

        wandb.setup(wandb.Settings(silent=True))  # the run's own settings come too late for what is said before init
        if logger.save_dir is not None:
            Path(logger.save_dir).mkdir(parents=True, exist_ok=True)  # else wandb falls back to the system's /tmp
        try:
            _ = logger.experiment  # type: ignore[attr-defined]
        except Error as error:
            reason = " ".join(str(error).split())
            raise UqbenchError(f"W&B did not start: {reason}; set WANDB_MODE=offline or pass logger=none") from error
    if config is not None:
        logger.log_hyperparams(dict(config))


def _finish(logger: Logger, exit_code: int) -> None:
    """Writes what is pending; the trainer has done so for its own stages, but figures may have been logged since."""
    logger.finalize("success" if exit_code == 0 else "failed")
    if is_wandb(logger) and logger._experiment is not None:  # type: ignore[attr-defined]
        logger._experiment.finish(exit_code=exit_code)  # type: ignore[attr-defined]


def _tags(tags: Sequence[str]) -> list[str]:
    """Distinct, non-empty and short enough, in their order."""
    return list(dict.fromkeys(tag[:_TAG_LENGTH] for tag in tags if tag))


def _has_key() -> bool:
    """Whether wandb would find a key: in the environment or in a netrc entry for the server."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    candidates = [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]
    path = next((p for p in (Path(c).expanduser() for c in candidates if c) if p.is_file()), None)
    if path is None:
        return False
    try:
        # Not authenticators(): it also answers with the file's `default` entry, which is no key of ours.
        return host in netrc.netrc(path).hosts
    except (netrc.NetrcParseError, OSError):
        return False
