"""The ground: parameters, files, tables, provenance, downloads, error messages, and how a script runs.

Every other package may import this one; it imports none of them. Nothing here knows about images or networks.
"""
