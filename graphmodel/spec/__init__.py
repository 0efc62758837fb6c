"""What the user writes: YAML with positions and the Pydantic models it becomes. Nothing here imports torch."""
