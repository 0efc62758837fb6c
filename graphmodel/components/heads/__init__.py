"""One file per family of heads; importing the package registers none, the registry loads them by need."""
