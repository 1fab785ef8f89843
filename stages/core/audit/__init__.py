"""What is wrong with a set of images: copies, contradicting labels, unreadable and odd images.

Not here: what the split does about it (split).
"""
