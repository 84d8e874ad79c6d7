"""How an operator is declared: schema, reference, fake, gradient and autocast in one object.

Every operator is defined twice in the torch.library namespace ``anybev``: under its own name, which
compiled kernels implement per dispatch key, and under ``<name>_reference``, which only the
plain-PyTorch reference implements. Wrappers call the object; it picks the second when the user
forces the reference through ``ANYBEV_OPS``. An operator with a Triton kernel, one source for
several devices, is there a third time, under ``<name>_triton``, for whoever forces that.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anybev import envs
from anybev.device.npu import adapters
from anybev.device.ops import _native

NAMESPACE = "anybev"
_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")
_DISPATCH_KEYS = {"cpu": "CPU", "cuda": "CUDA", "npu": "PrivateUse1"}
_AUTOCAST_DEVICES = ("cpu", "cuda")
_NPU_AUTOCAST = torch._C.DispatchKey.AutocastPrivateUse1  # type: ignore[attr-defined] # not in stubs
_EVERY_AUTOCAST = (
    torch._C.DispatchKeySet(_NPU_AUTOCAST)
    | torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
    | torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)
)

CONTRACTS: dict[str, "Contract"] = {}


def _mark_non_differentiable(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.mark_non_differentiable(*(output if isinstance(output, tuple) else (output,)))


def _refuse_gradient(ctx: Any, *grads: Any) -> Any:
    raise RuntimeError("operator without a gradient: its outputs must not reach backward()")


def _outside_autocast(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel in Python whose own steps autocast leaves alone, as it leaves a compiled one's."""

    @functools.wraps(kernel)
    def run(*args: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(_EVERY_AUTOCAST):
            return kernel(*args)

    return run


def _register_npu_autocast(name: str, dtype: torch.dtype) -> None:
    """As ``torch.library.register_autocast``, which knows no npu before torch_npu is imported."""

    def cast(_: Any, *args: Any) -> Any:
        overload = getattr(torch.ops.anybev, name).default
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(_NPU_AUTOCAST)):
            return overload(*torch.amp.autocast_mode._cast(args, "npu", dtype))

    _LIBRARY.impl(name, cast, "AutocastPrivateUse1", with_keyset=True)


class Contract:
    """One operator: its schema and every registration that does not depend on a backend.

    Args:
        name: stem of the operator, the same in every tree; ``_backward`` operators carry the
            public operator's name in ``public``.
        arguments: schema after the name, ``"(Tensor x) -> Tensor"``.
        reference: plain-PyTorch implementation for any device.
        fake: shape and dtype of the result for FakeTensor.
        public: name under which ``ANYBEV_OPS`` and the status table know the operator.
        triton: function of ``anybev.device.triton.<public>`` that computes it, if there is one; the
            module is imported by the first call.
    """

    def __init__(
        self,
        name: str,
        arguments: str,
        *,
        reference: Callable[..., Any],
        fake: Callable[..., Any],
        public: str | None = None,
        triton: str | None = None,
    ) -> None:
        self.name = name
        self.public = public or name
        self.triton = triton
        for qualified in self._names():
            _LIBRARY.define(f"{qualified}{arguments}", tags=(torch.Tag.pt2_compliant_tag,))
            kernel = self._call_triton if qualified.endswith("_triton") else reference
            _LIBRARY.impl(qualified, _outside_autocast(kernel), "CompositeExplicitAutograd")
            torch.library.register_fake(f"{NAMESPACE}::{qualified}", fake, lib=_LIBRARY)
        if name in adapters.ADAPTERS:
            kernel = adapters.kernel(name, self.public, reference)
            _LIBRARY.impl(name, _outside_autocast(kernel), "PrivateUse1")
        CONTRACTS[name] = self

    def _names(self) -> tuple[str, ...]:
        names = self.name, f"{self.name}_reference"
        return (*names, f"{self.name}_triton") if self.triton else names

    def _call_triton(self, *args: Any) -> Any:
        package = importlib.import_module("anybev.device.triton")
        package.check_installed(self.public)
        module = importlib.import_module(f"anybev.device.triton.{self.public}")
        return getattr(module, str(self.triton))(*args)

    def _forced(self) -> str | None:
        choice = envs.forced_implementations().get(self.public)
        if choice == "triton" and not self.triton:
            others = ", ".join(sorted({c.public for c in CONTRACTS.values() if c.triton}))
            raise ValueError(
                f"ANYBEV_OPS: {self.public} must be reference, for it has no Triton kernel, got "
                f"triton; operators that have one: {others}"
            )
        return choice

    def register_autograd(
        self, backward: Callable[..., Any], *, setup_context: Callable[..., None]
    ) -> None:
        """Attach the gradient formula (see ``torch.library.register_autograd``)."""
        for name in self._names():
            torch.library.register_autograd(
                f"{NAMESPACE}::{name}", backward, setup_context=setup_context, lib=_LIBRARY
            )

    def register_no_gradient(self) -> None:
        """Declare that no output carries a gradient, whatever the inputs require."""
        self.register_autograd(_refuse_gradient, setup_context=_mark_non_differentiable)

    def register_autocast(self, dtype: torch.dtype) -> None:
        """Cast floating inputs to ``dtype`` under autocast."""
        for name in self._names():
            for device in _AUTOCAST_DEVICES:
                torch.library.register_autocast(f"{NAMESPACE}::{name}", device, dtype, lib=_LIBRARY)
            _register_npu_autocast(name, dtype)

    def overload(self) -> Any:
        """The torch operator that a call goes to now."""
        forced = self._forced()
        return getattr(torch.ops.anybev, f"{self.name}_{forced}" if forced else self.name).default

    def implementation(self, backend: str) -> str:
        """``native``, ``vendor``, ``triton`` or ``reference`` for ``cpu``, ``cuda`` or ``npu``."""
        if forced := self._forced():
            return forced
        if backend == "cuda" and self.public == "sparse_conv" and envs.sparse_conv_vendor():
            return "vendor"
        key = _DISPATCH_KEYS[backend]
        if backend == "npu" and not adapters.installed():
            return "reference"
        if torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{self.name}", key):
            return "vendor" if backend == "npu" else "native"
        return "reference"

    def __call__(self, *args: Any) -> Any:
        """Run the operator; the device of the first tensor argument picks the kernel.

        Raises:
            RuntimeError: ``ANYBEV_REQUIRE_NATIVE=1`` and the backend declares a native kernel that
                is not there.
        """
        if envs.require_native():
            self._require_native(args)
        return self.overload()(*args)

    def _require_native(self, args: tuple[Any, ...]) -> None:
        device = next((a.device.type for a in args if isinstance(a, Tensor)), "cpu")
        declared = device in _DISPATCH_KEYS and self.public in _native.DECLARED.get(device, ())
        if declared and self.implementation(device) == "reference":
            raise envs.MachineError(
                f"{self.public}: kernel on {device} must be native (ANYBEV_REQUIRE_NATIVE=1), got "
                f"the reference; {_native.why_missing(self.public, device)}"
            )
