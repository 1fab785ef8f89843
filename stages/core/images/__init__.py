"""Images as files and arrays: where they come from, how they are decoded, and contact sheets of them.

Not here: whether two images are copies (audit), and batches for training (network).
"""
