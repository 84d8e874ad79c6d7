"""Compile every Triton kernel for devices that this machine does not have, and say what came out.

With triton-ascend and ascendnpu-ir installed, kernels go from Triton to HIVM, scheduled and with
the unified buffer planned, for Ascend910B3; the step after that, to object code, needs CANN's
hivmc and is stood in for by a script that exits. With upstream triton they go to cubins for the
architectures of the CUDA build. Nothing is run: this shows that kernels compile and that their
tiles fit, no more.

    python tools/lower_triton.py [--out benchmark/results/triton_ascend.json]

Each kernel is compiled as BEVFusion calls it, and for Ascend once more with a tile that cannot fit:
the compiler must say so, or its answer for the first means nothing. Exit status: 0 when every
row is as expected, 1 when one is not, 3 without a compiler.
"""

import argparse
import importlib
import importlib.util
import json
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import anybev
from anybev.device.report import commit
from anybev.device.triton import OPTIONS

ASCEND = "Ascend910B3"
CUDA = (80, 90, 100)
_OVERSIZED = 1 << 13  # rows or columns of a tile: 1 MiB and more
_BISHENGIR = (
    "--enable-hfusion-compile=true",
    "--enable-hivm-compile=true",
    "--enable-triton-kernel-compile=true",
    "--enable-auto-multi-buffer=True",
)
_HIVMC = "#!/bin/sh\necho 'hivmc: stand-in, no object code'\nexit 0\n"


def examples() -> Iterator[Any]:
    """Every kernel of ``anybev.device.triton`` as a real problem calls it."""
    package = importlib.import_module("anybev.device.triton")
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        yield from getattr(module, "EXAMPLES", ())


def to_linalg(example: Any, constants: dict[str, int]) -> str:
    """The kernel as linalg on tensors, by triton-ascend."""
    from triton._C.libtriton import ir
    from triton.backends.ascend import compiler
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    target = GPUTarget("npu", ASCEND, 0)
    backend = compiler.AscendBackend(target)
    options = backend.parse_options(dict(OPTIONS))
    source = ASTSource(
        fn=example.kernel, signature=dict(example.signature), constants=dict(constants)
    )
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    module = source.make_ir(
        options, backend.get_codegen_implementation(), backend.get_module_map(), context
    )
    facts = {**options.__dict__, "target": target, "hash": "x"}
    module = compiler.make_ttir(module, facts, options)
    text: str = compiler.ttir_to_linalg(module, facts, options, named_ops=True)
    return re.sub(r', mix_mode = "[^"]*"', "", text)  # an attribute for the step that CANN does


def bishengir() -> Path:
    """The compiler of ascendnpu-ir."""
    spec = importlib.util.find_spec("ascendnpuir")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("ascendnpu-ir must be installed beside triton-ascend, got none")
    return Path(spec.origin).parent / "bin" / "bishengir-compile"


def to_hivm(linalg: str) -> tuple[int, str]:
    """Exit status and messages of lowering to HIVM."""
    with tempfile.TemporaryDirectory() as folder:
        source, hivmc = Path(folder) / "kernel.mlir", Path(folder) / "hivmc"
        source.write_text(linalg)
        hivmc.write_text(_HIVMC)
        hivmc.chmod(0o755)
        command = [bishengir(), source, f"--target={ASCEND}", *_BISHENGIR, "-o", f"{folder}/kernel"]
        paths = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
        done = subprocess.run(command, env=paths, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def lower_for_ascend(example: Any, constants: dict[str, int]) -> dict[str, Any]:
    """What became of one kernel."""
    try:
        status, messages = to_hivm(to_linalg(example, constants))
    except subprocess.CalledProcessError as error:
        status, messages = error.returncode, str(error.stderr)
    return {
        "status": status,
        "ub_overflow": "ub overflow" in messages.lower(),
        "message": "; ".join(re.findall(r"error: (.*?)(?:!|$)", messages, re.M)) if status else "",
    }


def compile_for_cuda(example: Any, constants: dict[str, int], architecture: int) -> dict[str, Any]:
    """What became of one kernel; a kernel that does not compile raises."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {**example.signature, **dict.fromkeys(constants, "constexpr")}
    signature = {name: types[name] for name in example.kernel.arg_names}
    source = ASTSource(fn=example.kernel, signature=signature, constexprs=constants)
    target = GPUTarget("cuda", architecture, 32)
    compiled = triton.compile(source, target=target, options=dict(OPTIONS))
    return {
        "status": 0,
        "cubin_bytes": len(compiled.asm["cubin"]),
        "shared_memory_bytes": compiled.metadata.shared,
        "fused_multiply_adds": compiled.asm["ptx"].count("fma."),
    }


def ascend_rows() -> Iterator[dict[str, Any]]:
    """Every kernel, each also with a tile that cannot fit."""
    for example in examples():
        oversized = {**example.constants, example.block: _OVERSIZED}
        for expect, constants in (("compiles", dict(example.constants)), ("overflow", oversized)):
            begin = time.perf_counter()
            found = lower_for_ascend(example, constants)
            yield {
                "kernel": example.name,
                "target": ASCEND,
                "expect": expect,
                "as_expected": found["ub_overflow"]
                == (expect == "overflow")
                == bool(found["status"]),
                **found,
                "constants": constants,
                "seconds": round(time.perf_counter() - begin, 2),
            }


def cuda_rows() -> Iterator[dict[str, Any]]:
    """Every kernel for every architecture; multiplications and additions must have stayed apart."""
    for example in examples():
        for architecture in CUDA:
            begin = time.perf_counter()
            constants = dict(example.constants)
            found = compile_for_cuda(example, constants, architecture)
            yield {
                "kernel": example.name,
                "target": f"sm_{architecture}",
                "expect": "compiles",
                "as_expected": not found["fused_multiply_adds"],
                **found,
                "constants": constants,
                "seconds": round(time.perf_counter() - begin, 2),
            }


def versions(*packages: str) -> dict[str, str]:
    """Versions of the packages that are installed."""
    installed = {d.metadata["Name"].lower(): d.version for d in metadata.distributions()}
    return {name: installed[name] for name in packages if name in installed}


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="file for the report as JSON")
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("triton") is None:
        print("error: triton or triton-ascend must be installed, got neither", file=sys.stderr)
        return 3
    ascend = importlib.util.find_spec("triton.backends.ascend") is not None
    rows = []
    for row in ascend_rows() if ascend else cuda_rows():
        print(json.dumps(row), flush=True)
        rows.append(row)
    report = {
        "what": "lowered to HIVM, not to object code, not run" if ascend else "compiled, not run",
        "anybev": anybev.__version__,
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "versions": versions("torch", "triton", "triton-ascend", "ascendnpu-ir"),
        "rows": rows,
    }
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if rows and all(row["as_expected"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
