"""Networks, their training and its checkpoints, and what a trained network says of an image.

Nothing here needs DVC or pydantic, so that it runs on a machine with PyTorch alone.
"""
