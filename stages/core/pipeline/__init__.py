"""The lowest layer: parameters, files, tables, queries, components, provenance, downloads, errors, how a script runs.

Every other package can import this one. It imports none of them, and contains no image processing and no network.
"""
