"""What a model costs: parameters and floating-point operations of every call, counted on the meta device."""
