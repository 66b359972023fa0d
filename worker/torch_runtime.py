"""How torch uses this machine: threads and device."""

import torch
from billiard.process import current_process
from celery.utils.sysinfo import cpu_budget

from store.settings import Settings


class DeviceUnavailable(Exception):
    """The settings ask for a device this machine does not have."""


def configure_torch(settings: Settings) -> None:
    """Share the machine's cores among the worker's processes, unless the settings say otherwise."""
    torch.set_num_threads(settings.torch_threads or threads_per_process(settings.worker_processes))


def threads_per_process(processes: int) -> int:
    """Return the cores of one process; container limits count."""
    return max(1, int(cpu_budget().count) // processes)


def choose_device(device: str) -> torch.device:
    """Return the device for ``auto``, ``cpu`` or ``cuda``; with several GPUs, one for each process.

    Raises:
        DeviceUnavailable: ``cuda`` was asked for and torch sees no GPU.
    """
    if device == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        index = getattr(current_process(), "index", 0)  # the place of this process in Celery's pool
        return torch.device("cuda", index % torch.cuda.device_count())
    if device == "cuda":
        raise DeviceUnavailable(
            "the worker is set to use a GPU but torch sees none: set ODENESS_DEVICE=auto, or install a "
            "torch build and driver for the GPU"
        )
    return torch.device("cpu")
