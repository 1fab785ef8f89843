"""Assign images to train, validation and test, and find leaks between these splits.

The search for copies is in audit, and the components that a split keeps together are in pipeline.
"""
