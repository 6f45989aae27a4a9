"""Every CUDA kernel, with every set of definitions it is used with, compiled for real GPUs; no GPU is needed."""

import re

import pytest
from emulator import kernel_names

from ksubspaces.kernels.cuda import loader

ARCHITECTURES = ["sm_80", "sm_90", "sm_100"]
STATIC_SHARED_MEMORY = 48 << 10


def compile_with_nvrtc(text, options):
    """Machine code of a source and the compiler's log, or the errors."""
    nvrtc = pytest.importorskip(
        "cuda.bindings.nvrtc", reason="NVRTC is missing: pip install cuda-bindings nvidia-cuda-nvrtc"
    )
    try:
        error, program = nvrtc.nvrtcCreateProgram(text.encode(), b"kernels.cu", 0, [], [])
    except RuntimeError as missing:
        pytest.skip(f"NVRTC is missing: pip install nvidia-cuda-nvrtc ({missing})")
    assert error == nvrtc.nvrtcResult.NVRTC_SUCCESS
    (error,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    log = b" " * nvrtc.nvrtcGetProgramLogSize(program)[1]
    nvrtc.nvrtcGetProgramLog(program, log)
    log = log.decode().strip("\0 \n")
    assert error == nvrtc.nvrtcResult.NVRTC_SUCCESS, log
    size = nvrtc.nvrtcGetCUBINSize(program)[1]
    nvrtc.nvrtcDestroyProgram(program)
    assert size > 0
    return log


def resources(log):
    """What ptxas says of each kernel: registers, spilled bytes, static shared memory."""
    found = {}
    for part in log.split("Compiling entry function '")[1:]:
        name = part.partition("'")[0]

        def number(pattern, part=part):
            match = re.search(pattern, part)
            return int(match.group(1)) if match else 0

        found[name] = {
            "registers": number(r"Used (\d+) registers"),
            "spills": number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
            "stack": number(r"(\d+) bytes stack frame"),
            "shared": number(r"(\d+) bytes smem"),
        }
    return found


def ident(value):
    return value if isinstance(value, str) else "-".join(f"{k}={v}" for k, v in value.items())


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(("source", "defines"), loader.all_variants(), ids=ident)
def test_cuda_sources_compile(source, defines, arch):
    options = [*loader.OPTIONS, f"--gpu-architecture={arch}", "--ptxas-options=-v"]
    text = loader.read(source, defines)
    found = resources(compile_with_nvrtc(text, options))
    assert sorted(found) == sorted(kernel_names(text))
    for name, used in found.items():
        assert used["registers"] > 0, name
        assert used["spills"] == 0, f"{name} spills registers: {used}"
        assert used["shared"] <= STATIC_SHARED_MEMORY, f"{name} has too much static shared memory: {used}"


def test_every_cuda_source_is_compiled():
    assert {path.stem for path in loader.FOLDER.glob("*.cu")} == {source for source, _ in loader.all_variants()}


def test_what_nvcc_takes_and_nvrtc_does_not_is_found():
    with pytest.raises(AssertionError, match="INFINITY"):
        compile_with_nvrtc('extern "C" __global__ void f(float* x) { *x = INFINITY; }', ["--gpu-architecture=sm_90"])
