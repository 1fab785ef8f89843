"""What the scripts in stages/ share: eight packages, each importing only from those below it.

commands
audit   network
images  split  evidence  report
pipeline
"""
