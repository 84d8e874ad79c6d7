"""Writers of synthetic data in the official on-disk layouts."""
