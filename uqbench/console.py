"""The table a run ends with: grouped, in the units the field prints, readable in 100 columns and in a log file."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table

_WIDTH = 100  # where the output is no terminal, rich would take 80

# What is printed first and how it is called; what is not named here follows under its own key.
_LABELS = {
    "accuracy": "accuracy",
    "nll": "NLL",
    "brier": "Brier score",
    "ece": "ECE",
    "ece_adaptive": "adaptive ECE",
    "ece_classwise": "classwise ECE",
    "mce": "MCE",
    "member_accuracy": "mean member's accuracy",
    "member_nll": "mean member's NLL",
    "member_ece": "mean member's ECE",
    "aurc": "AURC",
    "aurc_sum": "AURC as a sum",
    "aurc_achievable": "AURC achievable",
    "eaurc": "excess AURC",
    "augrc": "AUGRC",
    "coverage_at_risk": "coverage at risk",
    "risk_at_coverage": "risk at coverage",
    "total_entropy": "total uncertainty",
    "aleatoric_entropy": "aleatoric",
    "mutual_information": "epistemic",
    "disagreement": "pairwise disagreement",
    "kl": "pairwise KL",
    "cosine": "pairwise cosine",
}
_PERCENT = {"accuracy", "ece", "mce", "aurc", "eaurc", "augrc", "risk", "auroc", "aupr", "fpr95", "disagreement"}
_NATS = {"nll", "entropy", "information", "kl"}
_DIVERSITY = ("disagreement", "kl", "cosine")
_SCALED = "temperature_scaled/"


def print_figures(
    results: Mapping[str, float],
    paths: Iterable[str] = (),
    title: str = "",
    console: Console | None = None,
) -> None:
    """Prints the closing tables of a run, then the paths of what it wrote.

    Args:
        results: Figures by key, ``test/accuracy``, ``shift/fog/3/nll``, ``ood/svhn/auroc[total_entropy]``...
        paths: Files and addresses to name below the tables.
        title: One line above them.
        console: Where to print; standard output if None.
    """
    from rich.console import Console

    if console is None:
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=_WIDTH)
    if title:
        console.print(title, style="bold", markup=False)
    console.print(figures_table(results))
    for path in paths:
        # Not wrapped: a path that is broken over lines can neither be clicked nor copied.
        console.print(f"  {path}", markup=False, soft_wrap=True)


def print_run(record: Mapping[str, Any], run_dir: Path) -> None:
    """Prints a finished run from its record: what it was, its figures, and what lies in its directory."""
    title = f"{record['experiment']}: {record['method']} on {record['data']['name']}, {record['backbone']}"
    print_figures(record["metrics"], _written(run_dir), f"{title}, scale={record['scale']}, seed {record['seed']}")


def _written(run_dir: Path) -> list[str]:
    """What a reader would open first, as far as it is there."""
    files = [*sorted(run_dir.glob("metrics.json")), *sorted((run_dir / "figures").glob("[!.]*.*"))]
    files += [*sorted(run_dir.glob("predictions_*.safetensors")), *sorted((run_dir / "wandb").glob("*run-*-*"))]
    return [str(file) for file in files]


def figures_table(results: Mapping[str, float]) -> Group:
    """The closing tables of a run: test, corruption shift, out of distribution, diversity; those that have figures."""
    from rich.console import Group

    tables = [_split_table(results), _shift_table(results), _ood_table(results), _diversity_table(results)]
    return Group(*(table for table in tables if table is not None and table.row_count))


def number(key: str, value: float | None) -> str:
    """A figure as the field prints it: shares in percent with two digits, all else with four significant ones."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return str(value)
    if _is_percent(key):
        return f"{100 * value:.2f}"
    # Significant digits with their trailing zeros (0.1200, not 0.12), but never 1.2e+03.
    return f"{value:#.4g}" if 1e-3 <= abs(value) < 1e3 else f"{value:.3g}"


def label(key: str) -> str:
    """What a metric is called in a table, with its unit: ``coverage_at_risk[0.01]`` is `coverage at 1 % risk (%)`."""
    name, argument = re.fullmatch(r"([^\[]*)(?:\[(.*)\])?", key).groups()  # type: ignore[union-attr]
    text = _LABELS.get(name, name.replace("_", " ").replace("/", " "))
    if argument is not None:
        first, at, last = text.partition(" at ")
        share = _share(argument)
        text = f"{first} at {share} {last}" if at and share else f"{text} [{argument.replace('_', ' ')}]"
    unit = "%" if _is_percent(key) else "nats" if _words(name) & _NATS else ""
    return f"{text} ({unit})" if unit else text


def _split_table(results: Mapping[str, float]) -> Table | None:
    """Validation and test beside the temperature-scaled test figures."""
    test, val = _under(results, "test/"), _under(results, "val/")
    scaled = {key.removeprefix(_SCALED): value for key, value in test.items() if key.startswith(_SCALED)}
    temperature = test.get("temperature")
    columns = {"val": val, "test": test}
    if scaled:
        columns["test, T scaled" if temperature is None else f"test at T = {temperature:.3f}"] = scaled
    columns = {name: column for name, column in columns.items() if column}
    keys = [key for key in _ordered(test or val) if not key.startswith(_SCALED) and key != "temperature"]
    keys = [key for key in keys if _metric_name(key) not in _DIVERSITY]
    rows = [(label(key), [number(key, column.get(key)) for column in columns.values()]) for key in keys]
    return _table("in distribution", list(columns), rows)


def _shift_table(results: Mapping[str, float]) -> Table | None:
    """Means over corruptions, a row per severity, between the clean test figures and the mean over severities."""
    by_severity: dict[str, dict[str, float]] = {}
    for key, value in _under(results, "shift/severity/").items():
        severity, _, metric = key.partition("/")
        by_severity.setdefault(severity, {})[metric] = value
    mean = _under(results, "shift/mean/")
    if not by_severity or not mean:
        return None
    metrics = [key for key in ("accuracy", "nll", "brier", "ece", "aurc") if key in mean]
    rows = {"0 (clean)": _under(results, "test/")}
    rows |= {severity: by_severity[severity] for severity in sorted(by_severity, key=int)}
    rows["mean"] = mean
    cells = [(name, [number(key, row.get(key)) for key in metrics]) for name, row in rows.items()]
    return _table("severity (mean over corruptions)", [label(key) for key in metrics], cells)


def _ood_table(results: Mapping[str, float]) -> Table | None:
    """A row per out-of-distribution set and score."""
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for key, value in _under(results, "ood/").items():
        name, _, metric = key.rpartition("/")
        metric, _, score = metric.partition("[")
        rows.setdefault((name, score.rstrip("]")), {})[metric] = value
    metrics = [key for key in ("auroc", "aupr", "fpr95") if any(key in row for row in rows.values())]
    metrics += sorted({key for row in rows.values() for key in row} - set(metrics))
    cells = []
    for (name, score), row in rows.items():
        described = f"{name}: {score.replace('_', ' ')}" if score else name
        cells.append((described, [number(key, row.get(key)) for key in metrics]))
    heads = {"auroc": "AUROC (%)", "aupr": "AUPR (%)", "fpr95": "FPR95 (%)"}
    return _table("out of distribution", [heads.get(key, label(key)) for key in metrics], cells)


def _diversity_table(results: Mapping[str, float]) -> Table | None:
    """How far the members of an ensemble differ."""
    test = _under(results, "test/")
    rows = [(label(key), [number(key, test[key])]) for key in test if _metric_name(key) in _DIVERSITY]
    return _table("diversity of members", ["test"], rows)


def _table(first: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> Table | None:
    from rich import box
    from rich.table import Table

    if not rows:
        return None
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, min_width=72)
    table.add_column(first, min_width=32)
    for column in columns:
        table.add_column(column, justify="right")
    for name, cells in rows:
        table.add_row(_plain(name), *cells)
    return table


def _plain(text: str) -> str:
    """A label whose brackets are not markup."""
    from rich.markup import escape

    return escape(text)


def _under(results: Mapping[str, float], prefix: str) -> dict[str, float]:
    return {key.removeprefix(prefix): value for key, value in results.items() if key.startswith(prefix)}


def _ordered(keys: Iterable[str]) -> list[str]:
    """Known metrics in the order of `_LABELS`, then the others in their own."""
    known = list(_LABELS)
    return sorted(keys, key=lambda key: known.index(_metric_name(key)) if _metric_name(key) in known else len(known))


def _metric_name(key: str) -> str:
    return key.partition("[")[0]


def _words(name: str) -> set[str]:
    return set(name.replace("/", "_").split("_"))


def _is_percent(key: str) -> bool:
    return bool(_words(_metric_name(key)) & _PERCENT)


def _share(argument: str) -> str | None:
    """``0.01`` as `1 %`; None for what is no number."""
    try:
        return f"{100 * float(argument):g} %"
    except ValueError:
        return None
