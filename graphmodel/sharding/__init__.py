"""Sharding a model over several processes: what to wrap, construction of the shards, and what it costs."""
