"""`anybev check`: does this machine compute what the reference computes."""
