"""Registration of the plain classes of datasets and models under mmdet3d's type names."""
