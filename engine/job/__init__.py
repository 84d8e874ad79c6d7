"""Jobs: one node's share of a training through torchrun, checked before any process starts."""
