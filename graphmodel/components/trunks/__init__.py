"""One file per family of trunks; importing the package registers none, the registry loads them by need."""
