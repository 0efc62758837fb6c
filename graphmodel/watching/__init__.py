"""`graphmodel watch`: a page on this machine that shows specs as they are edited.

`files` notices saves, `drawing` turns a spec into a picture or diagnostics, `board` holds what is shown, `server`
serves it, and `run` is the loop around them. What needs torch is imported when the first spec is drawn.
"""

from graphmodel.watching.drawing import Settings
from graphmodel.watching.run import Watch

__all__ = ["Settings", "Watch"]
