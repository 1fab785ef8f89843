"""The schema of params.yaml, a module for each section, so that a new key reruns only the stages that read it."""
