"""What the commands for people need: compare, check, folds, predict, demo and export.

No stage imports this package, so a change here reruns nothing.
"""
