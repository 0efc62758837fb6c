"""From a spec to its graph: names bound, trunks opened, heads wired, every shape checked."""
