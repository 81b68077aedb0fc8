"""Finding the records of finished runs, and putting those together that differ in nothing but the seed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uqbench.errors import DataError
from uqbench.record import FILE, read_record


@dataclass(frozen=True)
class Group:
    """Runs of one configuration over seeds.

    Attributes:
        key: what they have in common, see `config.name_run`.
        records: their records, by ascending seed.
    """

    key: str
    records: list[dict[str, Any]]

    @property
    def seeds(self) -> list[int]:
        return [record["seed"] for record in self.records]

    def values(self, metric: str) -> list[float]:
        """The figure of every run that has it, by ascending seed."""
        return [record["metrics"][metric] for record in self.records if metric in record["metrics"]]


def collect(folders: Iterable[Path]) -> list[Group]:
    """The groups of all finished runs below ``folders``, by experiment, scale, data and method.

    Runs that were set aside (``*.oldN``) are left out.

    Raises:
        DataError: if there is no finished run, or two runs have the same configuration and seed.
    """
    groups: dict[str, dict[int, dict[str, Any]]] = {}
    for folder in folders:
        for path in sorted(folder.rglob(FILE)):
            if any(re.search(r"\.old\d+$", part) for part in path.parts):
                continue
            record = read_record(path.parent)
            runs = groups.setdefault(record["group"], {})
            if record["seed"] in runs:
                raise DataError(f"{path}: there are two runs of {record['group']} with seed {record['seed']}")
            runs[record["seed"]] = record
    if not groups:
        raise DataError(f"no finished run below {', '.join(map(str, folders))}: no {FILE} there")
    found = [Group(key, [runs[seed] for seed in sorted(runs)]) for key, runs in groups.items()]

    def order(group: Group) -> tuple:
        first = group.records[0]
        return first["experiment"], first["scale"], first["data"]["name"], first["method"], group.key

    return sorted(found, key=order)
