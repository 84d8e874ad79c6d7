"""Adapters from the operators' contracts to mx_driving, one module an operator.

Each checks the limits of the kernel before it calls and, where mx_driving means something else than
the contract, corrects it around the call; the docstring of the module says what and how.
"""
