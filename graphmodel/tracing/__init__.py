"""Opening a module: traces a trunk as far as the requested features need, on the meta device."""
