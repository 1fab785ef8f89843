"""Code of the commands for people: compare, check, folds, predict, demo and export.

No stage imports this package, so a change here does not rerun a stage.
"""
