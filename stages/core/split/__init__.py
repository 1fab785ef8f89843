"""Which images belong together, which part each goes to, and what leaks between the parts.

Not here: finding the copies that belong together (audit).
"""
