"""The schema of params.yaml, a module for each section, so that a new key reruns only the stages that read the section.

The comments in params.yaml explain the keys.
"""
