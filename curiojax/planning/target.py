"""The devices a plan is made for: a GPU that need not be there, or virtual CPU devices.

With JAX's CUDA plug-in installed, XLA compiles for a GPU from its description alone. Nothing here
runs on one, so kernels are not tuned, and buffers that only a tuned choice needs are not seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import jax

from curiojax.errors import ConfigError
from curiojax.planning.environment import has_plugin

DEVICES_PER_HOST = 8


@dataclass(frozen=True)
class Chip:
    """A GPU, by NVIDIA's data sheet.

    Attributes:
      memory: bytes, as it is sold.
      flops: dense bfloat16 FLOPs per second; twice as many with eight-bit numbers.
      description: what XLA wants to know, `GpuTargetConfigProto` as text.
    """

    name: str
    memory: float
    flops: float
    description: str


def _hopper(name: str, memory_size: int, bandwidth: int) -> str:
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: {bandwidth} l2_cache_size: 52428800 device_memory_size: {memory_size}
  cuda_compute_capability {{ major: 9 }}
}}
platform_name: "CUDA"
runtime_version {{ major: 12 minor: 9 patch: 0 }}
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{name}"
"""


CHIPS = {
    "h100": Chip(
        "H100",
        80e9,
        989e12,
        _hopper("NVIDIA H100 80GB HBM3", 84_929_347_584, 3_352_320_000_000),
    ),
    "h200": Chip(
        "H200",
        141e9,
        989e12,
        _hopper("NVIDIA H200", 150_754_820_096, 4_800_000_000_000),
    ),
}
TARGETS = ("cpu", *CHIPS)


@dataclass(frozen=True)
class Target:
    """Attributes:
    name: `cpu`, or the chip that is compiled for.
    devices: what a mesh is made of; those of a GPU that is not there can only be compiled for.
    chip: whose memory and speed the plan is held against.
    """

    name: str
    devices: list[Any]
    chip: Chip

    @property
    def exact(self) -> bool:
        """Compiled for the GPU rather than for virtual CPU devices."""
        return self.name != "cpu"


def make_target(name: str, devices: int) -> Target:
    """The devices to compile for.

    A GPU without the plug-in becomes virtual CPU devices, held against that GPU.

    Raises:
      ConfigError: unknown target, or a number of devices that cannot be had.
    """
    if name not in TARGETS:
        raise ConfigError(f"--target: {name!r} is not one of {', '.join(TARGETS)}")
    if devices < 1:
        raise ConfigError(f"--devices: {devices} is not a number of devices; give 1 or more")
    chip = CHIPS.get(name, CHIPS["h100"])
    if name != "cpu" and has_plugin():
        return Target(name, _described(chip, devices), chip)
    found = jax.devices("cpu")
    if len(found) < devices:
        raise ConfigError(
            f"--devices: {devices}, but this process has {len(found)} CPU devices; set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={devices}"
        )
    return Target("cpu", found[:devices], chip)


def describe(name: str) -> str:
    """One line about the target, which proves that it can be made."""
    (device,) = make_target(name, 1).devices
    return f"jax {jax.__version__} compiles for {device.device_kind}, {device.platform}"


def _described(chip: Chip, devices: int) -> list[Any]:
    from jax.experimental import topologies

    hosts = -(-devices // DEVICES_PER_HOST)
    if devices % hosts:
        raise ConfigError(
            f"--devices: {devices} do not fill hosts of {DEVICES_PER_HOST}; give a multiple of it"
        )
    topology = topologies.get_topology_desc(
        chip.name.lower(),
        "cuda",
        target_config=chip.description,
        topology=f"1x{hosts}x{devices // hosts}",
    )
    return list(topology.devices)


@contextlib.contextmanager
def without_a_device() -> Iterator[None]:
    """Lets cuDNN attention be lowered where there is no cuDNN to ask for its version.

    XLA takes the kernel's own word for the memory it needs; whether cuDNN accepts it is not known.
    """
    try:
        from jax._src.cudnn import fused_attention_stablehlo as module
    except ImportError:
        yield
        return
    with contextlib.ExitStack() as stack:
        for check, answer in (("check_cudnn_version", 91_000), ("check_compute_capability", True)):
            if hasattr(module, check):
                stack.enter_context(mock.patch.object(module, check, lambda *_, a=answer: a))
        yield
