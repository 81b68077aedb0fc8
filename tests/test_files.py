"""Safe writing: an interruption leaves the old file, and nothing half-written."""

from __future__ import annotations

import pytest

from uqbench.errors import UqbenchError
from uqbench.files import make_directory, write_safely


def test_a_failed_write_keeps_what_was_there(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("old")

    def disk_full(temporary):
        temporary.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(UqbenchError, match=r"no space left for .*metrics\.json: free some and start the same command"):
        write_safely(path, disk_full)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    write_safely(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_directory_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UqbenchError, match=r"cannot create .*; choose another output_dir=DIR"):
        make_directory(tmp_path / "file" / "run")
    assert make_directory(tmp_path / "a" / "b").is_dir()
