"""BEVFusion: lidar branch, BEV trunk, TransFusion head."""
