"""One file per family of heads; the registry imports each when it is needed."""
