"""Tests on the simulated npu, which cannot be undone: they have a pytest process of their own.

ANYBEV_SIMULATE=npu python -m pytest test/npu
"""

from anybev import envs

if envs.simulate() != "npu":
    collect_ignore_glob = ["*"]
