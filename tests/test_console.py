"""The closing table: groups, units and rounding, and its look in 100 columns and in a pipe."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from uqbench.console import label, number, print_figures, print_run

TEST = {"accuracy": 0.93124, "nll": 0.234567, "brier": 0.1, "ece": 0.0345, "ece_adaptive": 0.03, "aurc": 0.0123}
RESULTS = (
    {f"val/{key}": value for key, value in TEST.items()}
    | {f"test/{key}": value for key, value in TEST.items()}
    | {"test/coverage_at_risk[0.005]": 0.5, "test/coverage_at_risk[0.01]": 0.61, "test/brand_new": 7.0}
    | {"test/disagreement": 0.034, "test/kl": 0.0021, "test/cosine": 0.991, "test/temperature": 1.34567}
    | {"test/temperature_scaled/ece": 0.0111, "test/temperature_scaled/nll": 0.2}
    | {f"shift/fog/{s}/{key}": value for s in (1, 5) for key, value in TEST.items()}
    | {f"shift/severity/{s}/{key}": value for s in (1, 5) for key, value in TEST.items()}
    | {f"shift/mean/{key}": value for key, value in TEST.items()}
    | {f"ood/photographs/{m}[total_entropy]": v for m, v in {"auroc": 0.912, "aupr": 0.88, "fpr95": 0.31}.items()}
)


def printed(results=RESULTS, width=100, **settings) -> str:
    stream = io.StringIO()
    print_figures(results, console=Console(file=stream, width=width, highlight=False), **settings)
    return stream.getvalue()


def row(text: str, start: str) -> list[str]:
    return next(line for line in text.splitlines() if line.strip().startswith(start)).strip()[len(start) :].split()


def test_every_group_with_its_numbers():
    text = printed()
    assert row(text, "accuracy (%)") == ["93.12", "93.12"]
    assert row(text, "NLL (nats)") == ["0.2346", "0.2346", "0.2000"]
    assert row(text, "ECE (%)") == ["3.45", "3.45", "1.11"]
    assert row(text, "coverage at 0.5 % risk (%)") == ["50.00"] and row(text, "coverage at 1 % risk (%)") == ["61.00"]
    assert row(text, "brand new") == ["7.000"], "what the table does not know is shown all the same"
    assert row(text, "0 (clean)") == row(text, "mean") == ["93.12", "0.2346", "0.1000", "3.45", "1.23"]
    assert row(text, "photographs: total entropy") == ["91.20", "88.00", "31.00"]
    assert row(text, "pairwise disagreement (%)") == ["3.40"] and row(text, "pairwise KL (nats)") == ["0.002100"]
    assert "test at T = 1.346" in text and "fog" not in text
    assert text.index("in distribution") < text.index("severity") < text.index("out of distribution")


def test_fits_and_has_no_colour_codes(capsys, monkeypatch):
    assert max(map(len, printed().splitlines())) <= 100
    for variable in ("FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE"):
        monkeypatch.delenv(variable, raising=False)
    path = "runs/" + "long" * 40 + "/[a]/metrics.json"
    print_figures(RESULTS, [path], title="sve [single] run")
    text = capsys.readouterr().out
    assert "\x1b" not in text and f"  {path}\n" in text and text.startswith("sve [single] run\n")
    assert max(len(line) for line in text.splitlines() if path not in line) <= 100


def test_absent_groups_leave_no_trace():
    text = printed({"test/accuracy": 0.5})
    assert "out of distribution" not in text and "severity" not in text and "diversity" not in text
    assert printed({}).strip() == ""


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("accuracy", 0.931249, "93.12"),
        ("accuracy", 1.0, "100.00"),
        ("risk_at_coverage[0.8]", 0.0123, "1.23"),
        ("temperature_scaled/ece", 0.5, "50.00"),
        ("auroc[mutual_information]", 0.5, "50.00"),
        ("nll", 0.12, "0.1200"),
        ("nll", 12.3456, "12.35"),
        ("nll", float("inf"), "inf"),
        ("mutual_information", 2.346e-6, "2.35e-06"),
        ("nll", 0.0, "0"),
        ("nll", None, ""),
    ],
)
def test_numbers(key, value, expected):
    assert number(key, value) == expected


def test_labels_name_units():
    assert label("coverage_at_risk[0.01]") == "coverage at 1 % risk (%)"
    assert label("risk_at_coverage[0.8]") == "risk at 80 % coverage (%)"
    assert label("mutual_information") == "epistemic (nats)" and label("brier") == "Brier score"


def test_print_run_names_what_was_written(tmp_path, capsys):
    (tmp_path / "figures").mkdir()
    for name in ("metrics.json", "figures/reliability.png", "figures/.half.tmp"):
        (tmp_path / name).touch()
    record = {"experiment": "sve_vit", "scale": "demo", "method": "sve", "backbone": "vit", "seed": 3}
    print_run(record | {"data": {"name": "digits"}, "metrics": RESULTS}, tmp_path)
    text = capsys.readouterr().out
    assert text.startswith("sve_vit: sve on digits, vit, scale=demo, seed 3\n")
    assert [line.strip() for line in text.splitlines()[-2:]] == [
        str(tmp_path / "metrics.json"),
        str(tmp_path / "figures/reliability.png"),
    ]
