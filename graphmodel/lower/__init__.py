"""From the graph to a `torch.fx.GraphModule`: weights built, stages grafted, code emitted, frozen parts held still."""
