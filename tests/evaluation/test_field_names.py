import pytest

from curiojax.errors import ConfigError
from curiojax.evaluation.field_names import own_field_names
from curiojax.evaluation.settings import valid_keys
from curiojax.rollout.vllm_settings import VllmSettings


@pytest.mark.parametrize(
    "said, here",
    [
        ("data.template: unknown", "template: unknown"),
        ("rollout.devices, rollout.num_servers: are for", "devices, num_servers: are for"),
        ("rollout.vllm_python: /opt/data.template/rollout.x", None),
        ("reward.verifier: unknown", "verifier: unknown"),
        ("reward.timeout_seconds: 0", "grading_timeout_seconds: 0"),
        ("rollout.max_model_len: 9", "max_response_tokens: 9"),
        ("expert_data.path: data.path", "expert_data.path: data.path"),
    ],
)
def test_errors_name_keys_of_an_evaluation(said, here):
    with pytest.raises(ConfigError) as error, own_field_names():
        raise ConfigError(said)
    assert str(error.value) == (here or said.removeprefix("rollout."))
    if not said.startswith("expert_data"):
        assert str(error.value).split(":")[0].split(",")[0] in valid_keys()


def test_a_wrong_setting_of_vllm(tmp_path):
    with pytest.raises(ConfigError, match=r"^devices: a device is"), own_field_names():
        VllmSettings(max_model_len=8, log_dir=tmp_path, vllm_python="python", devices=(0, 0))
