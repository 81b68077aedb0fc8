"""``python -m uqbench.report RUNS... [--out FILE]``: the comparison of finished runs over their seeds, as Markdown."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from uqbench.errors import UqbenchError
from uqbench.files import write_safely
from uqbench.report.collect import collect
from uqbench.report.tables import page


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m uqbench.report", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="directories with finished runs somewhere below")
    parser.add_argument("--out", type=Path, help="write here instead of printing")
    args = parser.parse_args()
    try:
        text = page(collect(args.runs))
    except UqbenchError as error:
        print(f"uqbench.report: {error}", file=sys.stderr)
        sys.exit(2)
    if args.out:
        write_safely(args.out, lambda path: path.write_text(text))
    else:
        print(text)


if __name__ == "__main__":
    main()
