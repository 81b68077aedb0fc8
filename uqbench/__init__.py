"""uqbench: compose any backbone, any uncertainty method and any data set into one Lightning module.

Importing this package loads nothing heavy; see `docs/architecture.md` for what lies where.
"""

__version__ = "0.1.0"
