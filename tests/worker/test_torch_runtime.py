import pytest
import torch

from worker.torch_runtime import DeviceUnavailable, choose_device, threads_per_process


def test_the_cpu_is_used_when_asked_for() -> None:
    assert choose_device("cpu") == torch.device("cpu")


def test_auto_takes_a_gpu_exactly_if_there_is_one() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPU")
def test_a_gpu_that_is_not_there_is_refused_with_the_remedy() -> None:
    with pytest.raises(DeviceUnavailable, match="ODENESS_DEVICE=auto"):
        choose_device("cuda")


def test_processes_share_the_cores_and_each_has_one_at_least() -> None:
    alone = threads_per_process(1)
    assert alone >= 1
    assert threads_per_process(2) == max(1, alone // 2)
    assert threads_per_process(10_000) == 1
