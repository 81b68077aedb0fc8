"""Backbones: library models behind one thin wrapper, one file per family."""
