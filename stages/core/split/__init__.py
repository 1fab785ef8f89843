"""Groups of images that belong together, their assignment to parts, and leaks between the parts.

The search for copies is in audit.
"""
