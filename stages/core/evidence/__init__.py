"""Evaluate predicted probabilities: measures, their intervals, calibration, and the verdict in words.

The input is arrays and tables only: no network and no image is needed.
"""
