"""Whether a folder lies on another machine's disk, where sqlite's locks do not hold."""

from __future__ import annotations

import re
from pathlib import Path

#: Types of /proc/mounts.
_NETWORK = frozenset(
    (
        "afs", "beegfs", "ceph", "cifs", "davfs", "gfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2",
        "orangefs", "pvfs2", "smb3", "smbfs", "wekafs",
    )
)  # fmt: skip
#: In user space, of types such as fuse.sshfs; these are of this machine.
_LOCAL_FUSE = frozenset(
    ("fuse.lxcfs", "fuse.portal", "fuse.gvfsd-fuse", "fuse.ntfs-3g", "fuse.exfat", "fuse.fuse-overlayfs")
)


def network_filesystem(folder: Path, mounts: Path = Path("/proc/mounts")) -> str | None:
    """Type of the network file system that `folder` lies on, None where it is on a disk of this machine.

    Args:
        folder: Need not exist.
        mounts: As Linux lists them; elsewhere there is no such file, and nothing is known.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    place, found, depth = folder.expanduser().resolve(), None, -1
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal.group(1), 8)), fields[1]))
        if (place == point or point in place.parents) and len(
            point.parts
        ) >= depth:  # a later mount hides an earlier one
            found, depth = fields[2], len(point.parts)
    if found is None or found in _LOCAL_FUSE:
        return None
    return found if found in _NETWORK or found.startswith("fuse.") else None
