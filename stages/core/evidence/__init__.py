"""What probabilities are worth: measures, their intervals, calibration, and the verdict in words.

Only arrays and tables come in; no network and no image is needed.
"""
