"""The schema of params.yaml, a module for the stages that read it, so that a new key reruns only these stages."""
