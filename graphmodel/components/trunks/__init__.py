"""One file per family of trunks; the registry imports each when it is needed."""
