"""Networks, their training, its checkpoints, and inference.

This package needs neither DVC nor pydantic, so it also runs on a machine that has PyTorch without them.
"""
