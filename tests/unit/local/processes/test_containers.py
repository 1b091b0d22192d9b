from pathlib import Path

import pytest

from apirule.local.processes.containers import PodLogs, log_file
from apirule.names import ObjectName

POD = ObjectName("shop", "web")


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", "", "A", "a\n"])
def test_the_name_of_a_container_never_leads_out_of_the_folder_of_its_pod(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "x.log").touch()

    with pytest.raises(ValueError, match="cannot be the name of a container"):
        log_file(tmp_path, POD, name)

    assert PodLogs(tmp_path / "pods" / "more").open("shop", "web", name, previous=False) is None
