"""WBC-Shift: does this white-blood-cell classifier survive a change of laboratory?"""

__version__ = "0.1.0"
