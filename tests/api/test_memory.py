"""Limits of memory, in folders that look like those of containers."""

import pytest

from fastgdml import memory

GB = 2**30


def tree(folder, groups, **files):
    (folder / "proc" / "self").mkdir(parents=True)
    (folder / "proc" / "self" / "cgroup").write_text(groups)
    for name, content in files.items():
        path = folder / "sys" / "fs" / "cgroup" / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def test_groups_of_version_2(tmp_path):
    root = tree(
        tmp_path,
        "0::/batch/job\n",
        batch__job__memory_DOT_max=f"{2 * GB}\n",
        batch__job__memory_DOT_current=f"{GB}\n",
        batch__job__memory_DOT_stat=f"anon 5\ninactive_file {GB // 2}\n",
        batch__memory_DOT_max="max\n",
        batch__memory_DOT_current="5\n",
        memory_DOT_max=f"{5 * GB}\n",
        memory_DOT_current=f"{GB}\n",
    )
    assert list(memory.control_groups(root)) == [3 * GB // 2, 4 * GB]
    assert memory.available(root) <= 3 * GB // 2


def test_groups_of_version_1(tmp_path):
    root = tree(
        tmp_path,
        "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n",
        # of the group of the container only: its path is that of the host
        memory__memory_DOT_limit_in_bytes=f"{GB}\n",
        memory__memory_DOT_usage_in_bytes=f"{GB // 4}\n",
    )
    assert list(memory.control_groups(root)) == [3 * GB // 4]
    assert memory.available(root) <= 3 * GB // 4


def test_no_groups_no_limits(tmp_path):
    assert list(memory.control_groups(tmp_path)) == []
    assert memory.available(tmp_path) > 0


def test_the_limit_of_the_address_space(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource", reason="Windows has no such limits")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (3 * GB, 3 * GB))
    left = memory.address_space()
    assert 0 < left < 3 * GB
    assert memory.available() <= left
    with pytest.raises(MemoryError, match="ulimit -v"):
        memory.require_address_space(4 * GB)
