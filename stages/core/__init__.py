"""The code that the scripts in stages/ share: eight packages. Each imports only from the packages below it.

commands
audit   network
images  split  evidence  report
pipeline
"""

from core.pipeline import pins

pins.pin()  # before NumPy is imported
