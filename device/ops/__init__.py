"""Operators: one module each, holding the contract and the plain-PyTorch reference."""

from anybev.device.ops import _native

_native.load()
_native.load_cuda()
