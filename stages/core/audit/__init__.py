"""Find faults in a set of images: copies, contradicting labels, unreadable and unusual images.

How the split handles them is in the package split.
"""
