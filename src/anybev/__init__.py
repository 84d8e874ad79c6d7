"""AnyBEV: BEV 3D perception with the same code on CPU, NVIDIA CUDA and Ascend NPU.

Importing this package touches no hardware, builds nothing, patches nothing and prints nothing.
"""

__version__ = "0.1.0"
