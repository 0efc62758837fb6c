"""Graphviz in a process of its own: `graphviz_process.py FORMAT DPI < dot > picture`. Imports nothing of ours."""

import os
import sys


def main() -> None:
    """Reads DOT from stdin, writes the drawing to stdout."""
    sys.path.pop(0)  # this file's own directory, whose modules are no top-level ones
    import pygraphviz

    form, dpi = sys.argv[1:3]
    graph = pygraphviz.AGraph(string=sys.stdin.buffer.read().decode())
    drawn = graph.draw(format=form, prog="dot", args=f"-Gdpi={dpi}" if form == "png" else "")
    sys.stdout.buffer.write(drawn if isinstance(drawn, bytes) else str(drawn).encode())
    sys.stdout.buffer.flush()
    os._exit(0)  # Graphviz's own clean-up has crashed; nothing is left to do


if __name__ == "__main__":
    main()
