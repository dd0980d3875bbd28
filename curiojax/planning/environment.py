"""What has to be said to XLA before JAX is imported; nothing here imports it."""

from __future__ import annotations

import importlib.util
import os


def has_plugin() -> bool:
    """Is JAX's CUDA plug-in installed? With it, XLA compiles for GPUs that are not there."""
    return any(importlib.util.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13))


def prepare(devices: int) -> None:
    """Sets the environment variables for a plan on `devices` devices.

    What `XLA_FLAGS` says already stays: the flags a run will have belong into its plan.
    """
    ours = {"--xla_force_host_platform_device_count": str(devices)}
    if has_plugin():
        ours["--xla_gpu_autotune_level"] = "0"  # there is no GPU to time kernels on
    flags = os.environ.get("XLA_FLAGS", "").split()
    kept = [flag for flag in flags if flag.split("=")[0] not in ours]
    os.environ["XLA_FLAGS"] = " ".join([*kept, *(f"{k}={v}" for k, v in ours.items())])
    # The plug-in registers its compiler all the same, and does not look for a device.
    os.environ["JAX_PLATFORMS"] = "cpu"
    # XLA warns that it cannot measure kernels; the plan says so itself.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
