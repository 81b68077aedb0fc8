"""The Hydra entry point: ``python -m uqbench experiment=sve_vit``. Nothing but compose, run, print."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

_here = Path(__file__).resolve().parent
CONF = next(folder for folder in (_here / "conf", _here.parent / "conf") if folder.is_dir())
failures: list[str] = []


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def compose_and_run(cfg: DictConfig) -> Any:
    """Runs one composed configuration, and prints its figures or one line that says what to do."""
    from uqbench.errors import UqbenchError

    try:
        from uqbench.console import print_run
        from uqbench.run import run

        record = run(cfg)
        print_run(record, Path(cfg.run_dir))
        return record["metrics"].get("val/nll")
    except (UqbenchError, OSError) as error:
        message = str(error) if isinstance(error, UqbenchError) else _describe(error)
        print(f"uqbench: {message}", file=sys.stderr, flush=True)
        failures.append(message)
        if HydraConfig.get().mode == RunMode.RUN:
            sys.exit(2)
        return None  # the other runs of a sweep go on; main() exits with their count


def _describe(error: OSError) -> str:
    what = error.strerror or str(error)
    return f"{what}: {error.filename}" if error.filename else f"{what}; is the disk full? ({type(error).__name__})"


def main() -> None:
    """Entry point of ``python -m uqbench`` and of the ``uqbench`` command."""
    compose_and_run()
    if failures:
        print(f"uqbench: {len(failures)} run(s) of this sweep failed", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
