"""Images as files and arrays: their sources, decoding, and contact sheets.

The search for copies is in audit, and the batches for training are in network.
"""
