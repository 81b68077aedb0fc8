"""metrics.json."""

from __future__ import annotations

import pytest

from uqbench.record import FILE, KEYS, RecordError, read_record, surroundings, write_record

RECORD = {key: {} for key in KEYS - {"schema"}}


def test_round_trip(tmp_path):
    path = write_record(tmp_path, {**RECORD, "metrics": {"test/nll": 0.1}})
    assert path == tmp_path / FILE and read_record(tmp_path)["metrics"] == {"test/nll": 0.1}


def test_only_the_schema_and_finite_figures_are_written(tmp_path):
    with pytest.raises(ValueError, match="differ from the schema"):
        write_record(tmp_path, {**RECORD, "extra": 1})
    with pytest.raises(RecordError, match="1 figures are not finite, such as"):
        write_record(tmp_path, {**RECORD, "metrics": {"test/nll": float("nan")}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ['{"schema": 1, "met', "", "[]", '{"schema": 99}'])
def test_damaged_records_are_one_line(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(RecordError, match="force=true"):
        read_record(tmp_path)


def test_surroundings_name_the_machine():
    found = surroundings()
    assert found["versions"]["torch"] and found["hardware"]["cores"] >= 1
