"""Plots and the HTML report.

Not here: the figures that they show (evidence) and the contact sheets of images (images).
"""
