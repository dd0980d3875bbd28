"""Where a process learns who it is, and what is said about settings that cannot be."""

import pytest

from curiojax.distributed import read_settings
from curiojax.distributed.settings import _launcher, _local_devices
from curiojax.errors import ConfigError

FLAGS = [
    "distributed.coordinator=node1:9876",
    "distributed.num_processes=4",
    "distributed.process_id=2",
]
VARIABLES = {
    "JAX_COORDINATOR_ADDRESS": "node1:9876",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "2",
}
SRUN = {  # what srun sets for the second of two tasks on the second of two nodes
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_GPUS_ON_NODE": "8",
    "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
}


@pytest.fixture
def slurm(monkeypatch):
    for name, value in SRUN.items():  # JAX reads the process's own
        monkeypatch.setenv(name, value)


def test_the_keys_leave_the_rest_of_the_command_line():
    settings, rest = read_settings(["run.yaml", *FLAGS, "steps=3", "distributed=x"], {})
    assert rest == ["run.yaml", "steps=3", "distributed=x"]
    assert settings is not None
    assert (settings.coordinator, settings.num_processes, settings.process_id) == (
        "node1:9876",
        4,
        2,
    )
    assert (settings.join_seconds, settings.heartbeat_seconds) == (300, 30)


def test_variables_say_the_same_and_keys_win():
    assert read_settings([], VARIABLES)[0] == read_settings(FLAGS, {})[0]
    settings, _ = read_settings(["distributed.process_id=3"], VARIABLES)
    assert settings is not None and settings.process_id == 3


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"},
        {"OMPI_COMM_WORLD_SIZE": "1"},
        {"JOB_COMPLETION_INDEX": "3"},  # the members of such a Job may be runs of their own
        {**VARIABLES, "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"},
    ],
)
def test_one_process_has_nobody_to_join(environ):
    assert read_settings(["steps=3"], environ) == (None, ["steps=3"])


def test_kubernetes_numbers_its_pods():
    environ = {"JOB_COMPLETION_INDEX": "1"}
    settings, _ = read_settings(FLAGS[:2], environ)
    assert settings is not None and settings.process_id == 1


def test_slurm_says_everything(slurm):
    settings, _ = read_settings([], SRUN)
    assert settings is not None
    host, _, port = (settings.coordinator or "").partition(":")
    assert host == "gpu07" and 60000 < int(port) < 65536
    assert (settings.num_processes, settings.process_id) == (4, 3)
    assert settings.local_devices == (4, 5, 6, 7)
    settings, _ = read_settings(FLAGS[:1], SRUN)
    assert settings is not None and settings.coordinator == "node1:9876"


@pytest.mark.parametrize(
    ("tasks", "node", "visible", "on_node", "expected"),
    [
        ("1(x2)", 0, "0,1,2,3", "4", None),  # alone on its host: JAX's own rule would take one GPU
        ("4(x2)", 1, "0,1,2,3", "4", (1,)),
        ("2(x2)", 1, "0,1,2,3", "4", (2, 3)),
        ("2(x2)", 1, "0,1", "4", None),  # dealt out by --gpus-per-task
        ("4(x2)", 1, "0", "4", None),
        ("1,4", 1, "0,1,2,3", "4", (1,)),
    ],
)
def test_gpus_are_shared_by_the_processes_of_a_host(tasks, node, visible, on_node, expected):
    environ = {
        **SRUN,
        "SLURM_STEP_TASKS_PER_NODE": tasks,
        "SLURM_NODEID": str(node),
        "CUDA_VISIBLE_DEVICES": visible,
        "SLURM_GPUS_ON_NODE": on_node,
    }
    launcher = _launcher(environ)
    assert launcher is not None
    assert _local_devices(launcher, environ) == expected


def test_open_mpi_says_who_and_where(monkeypatch):
    environ = {
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": "1",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
        "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    }
    with pytest.raises(ConfigError, match=r"distributed\.coordinator: missing; this mpirun"):
        read_settings([], environ)
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911")
    settings, _ = read_settings([], environ)
    assert settings is not None
    assert (settings.coordinator or "").startswith("10.96.0.1:")
    assert (settings.num_processes, settings.process_id) == (2, 1)


@pytest.mark.parametrize(
    ("arguments", "environ", "message"),
    [
        (FLAGS[:2], {}, "distributed.process_id: missing, though distributed.coordinator is set"),
        (FLAGS[1:], {}, "distributed.coordinator: missing, though distributed.num_processes is"),
        ([], {"JAX_PROCESS_ID": "0"}, "distributed.coordinator: missing, though JAX_PROCESS_ID is"),
        (
            [*FLAGS[:2], "distributed.process_id=4"],
            {},
            "distributed.process_id: 4, but there are 4",
        ),
        ([], {**VARIABLES, "JAX_NUM_PROCESSES": "x"}, "JAX_NUM_PROCESSES: must be a whole number"),
        (
            ["distributed.coordinator=node1", *FLAGS[1:]],
            {},
            "distributed.coordinator: must be HOST",
        ),
        (["distributed.port=3"], {}, "distributed.port: unknown key; distributed has coordinator"),
        (
            ["distributed.heartbeat_seconds=1"],
            {},
            "distributed.heartbeat_seconds: must be at least",
        ),
        (
            ["distributed.coordinator=auto", FLAGS[1]],
            {},
            "distributed.num_processes: coordinator is",
        ),
    ],
)
def test_settings_that_cannot_be_are_named(arguments, environ, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        read_settings(arguments, environ)
