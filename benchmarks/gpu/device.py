"""Timing, peak memory and bandwidth of a device, and the facts about it."""

import gc
import os
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks.common import alternate, peak_memory

PACKAGES = ("torch", "lightning", "transformers", "peft", "accelerate", "bitsandbytes")


def synchronize(device: torch.device) -> None:
    """Wait until all work on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def release_memory() -> None:
    """Return unused memory to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def time_actions(
    actions: Mapping[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Measure the seconds of each action until the device is done, in turn, after a warm-up of each."""

    def finished(action: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            action()
            synchronize(device)

        return run

    return alternate({name: finished(action) for name, action in actions.items()}, repeats)


def peak_bytes(action: Callable[[], object], device: torch.device) -> int:
    """Measure the peak memory of ``action`` above the memory in use before it.

    On a CUDA device these are the bytes of tensors; on the CPU, the resident memory of the process.
    """
    if device.type != "cuda":
        return peak_memory(action)
    release_memory()
    synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    action()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def copy_bandwidth(size: int, device: torch.device, repeats: int = 10) -> float:
    """Measure the memory bandwidth in bytes per second, reading and writing, by copies of ``size`` bytes."""
    source = torch.ones(size // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    seconds = time_actions({"copy": lambda: target.copy_(source)}, repeats, device)["copy"]
    return 2 * source.nbytes / sorted(seconds)[len(seconds) // 2]


def facts(device: torch.device) -> dict[str, str]:
    """Describe the device and the installed packages."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        name = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    else:
        name = f"CPU ({platform.machine()}), {torch.get_num_threads()} of {os.cpu_count()} cores, miniature"
    return {
        "device": name,
        "Python": platform.python_version(),
        "packages": ", ".join(f"{package} {_version(package)}" for package in PACKAGES),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
