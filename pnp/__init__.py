"""P¬P SSL: alignment is local, dispersion is global and explicit.

Importing this package is light: torch comes with the modules that need it.
"""

__version__ = "0.1.0"
