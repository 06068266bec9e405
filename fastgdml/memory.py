"""How much memory this process may still take: of the machine, of its container, of its own limit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .errors import InsufficientMemoryError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def available(root: Path = Path("/")) -> int:
    """Return the bytes that this process may still take.

    The least of what the machine has available, what its control groups (v1 and v2, of containers and batch systems)
    leave, and what is left of the limit of its address space (``ulimit -v``).

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` are.
    """
    import psutil

    left = [int(psutil.virtual_memory().available), *control_groups(root)]
    space = address_space(root)
    return max(0, min(left if space is None else [*left, space]))


def address_space(root: Path = Path("/")) -> int | None:
    """Return the bytes that are left of the address space of this process; None where it is not limited."""
    if resource is None:
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    pages = _number(root / "proc" / "self" / "statm")
    return max(0, limit - (pages or 0) * os.sysconf("SC_PAGE_SIZE"))


def require_address_space(n_bytes: int, root: Path = Path("/")) -> None:
    """Raise InsufficientMemoryError if the limit of the address space leaves less than so many bytes."""
    space = address_space(root)
    if space is not None and space < n_bytes:
        raise InsufficientMemoryError(
            f"The limit of the address space (ulimit -v) leaves {space / 2**20:.0f} MB of memory; the numerical "
            f"libraries take {n_bytes / 2**20:.0f} MB. Raise it."
        )


def control_groups(root: Path = Path("/")) -> Iterator[int]:
    """Yield the bytes that each control group of this process leaves, where it has a limit."""
    mount = root / "sys" / "fs" / "cgroup"
    for controllers, group in _groups(root / "proc" / "self" / "cgroup"):
        if controllers == "":
            top, limit, usage = mount, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            top, limit, usage = mount / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        # In a container without a name space of its own for groups, the path is that of the host, and its own group is
        # what is mounted.
        folder = top / group.lstrip("/")
        folders = [folder, *folder.parents]
        for each in folders[: folders.index(top) + 1] if top in folders else [top]:
            most, used = _number(each / limit), _number(each / usage)
            if most is not None and used is not None:
                yield max(0, most - used + _reclaimable(each / "memory.stat"))


def _groups(path: Path) -> Iterator[tuple[str, str]]:
    """Yield controllers and path of each control group of this process."""
    for line in _text(path).splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3:
            yield parts[1], parts[2]


def _reclaimable(path: Path) -> int:
    """Return the bytes of files that a group holds in memory and gives back when it needs them."""
    for line in _text(path).splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file") and value.isdigit():
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    first = _text(path).split()[:1]
    return int(first[0]) if first and first[0].isdigit() else None  # "max" is no limit


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
