"""The language server: what an editor asks about a spec, answered while it is written; see `server.py`.

The server speaks the Language Server Protocol itself (`rpc.py`) and imports neither torch nor a protocol library:
importing the types of pygls alone takes longer than the server may take to start.
"""
