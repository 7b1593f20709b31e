"""Build the sdist and the wheel twice, from what is committed, and leave them in `dist/` if both are the same bytes.

The two builds have other folders, other times of files and another order of them. Their time is the commit's.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Exit code 1: the builds differ."""
    moment = int(_git("log", "-1", "--format=%ct").decode())
    with tempfile.TemporaryDirectory() as folder:
        builds = [build(Path(folder, name), moment) for name in ("one", "another-place")]
        sums = [{path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found} for found in builds]
        for name in sorted(sums[0].keys() | sums[1].keys()):
            print(*(each.get(name, "missing") for each in sums), name)
        if sums[0] != sums[1] or not sums[0]:
            print("build: the two builds differ", file=sys.stderr)
            return 1
        (_ROOT / "dist").mkdir(exist_ok=True)
        for path in builds[0]:
            shutil.copy(path, _ROOT / "dist")
    return 0


def build(folder: Path, moment: int) -> list[Path]:
    """Build from a copy of the commit; the files that came out."""
    source, out = folder / "source", folder / "out"
    with tarfile.open(fileobj=io.BytesIO(_git("archive", "HEAD"))) as archive:
        members = archive.getmembers()
        random.shuffle(members)
        archive.extractall(source, members, filter="data")
    for path in source.rglob("*"):
        os.utime(path, (moment + random.randrange(9999),) * 2)
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source],
        env=os.environ | {"SOURCE_DATE_EPOCH": str(moment)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    for sdist in out.glob("*.tar.gz"):
        sdist.write_bytes(settled(sdist.read_bytes(), moment))
    return sorted(out.iterdir())


def settled(packed: bytes, moment: int) -> bytes:
    """An sdist with everything in it that says when, where and by whom it was made, the same each time.

    setuptools keeps the times and owners of files, and the time of the packing.
    """
    written = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(packed)) as old, tarfile.open(fileobj=written, mode="w") as new:
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            member.mtime, member.uid, member.gid, member.uname, member.gname = moment, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            member.pax_headers = {}
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
    return gzip.compress(written.getvalue(), mtime=moment)


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=_ROOT, stdout=subprocess.PIPE, check=True).stdout  # noqa: S607


if __name__ == "__main__":
    sys.exit(main())
