"""The lowest layer: parameters, files, tables, provenance, downloads, error messages, and how a script runs.

Every other package can import this one. It imports none of them, and contains nothing about images or
networks.
"""
