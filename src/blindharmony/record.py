"""What a sidecar says about the run that made its image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from blindharmony.errors import InputError
from blindharmony.image import parse_json, read_text

# A name may not lead into another folder.
FileName = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"^[^/\\]+$")]
# In BIDS derivatives: a place in the data set.
BIDS_RAW = "bids:raw:"
Place = Annotated[str, StringConstraints(max_length=1000, pattern=rf"^({BIDS_RAW}[^\\]+|[^/\\]+)$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    # Fields a later version adds are no reason to refuse.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Named(_Part):
    """A file known by its name and its SHA-256."""

    name: FileName = Field(alias="Name")
    sha256: Digest = Field(alias="SHA256")


class NamedTarget(_Part):
    """A target model known by its digest."""

    name: str = Field(alias="Name")
    file: FileName | None = Field(alias="File")
    digest: str = Field(alias="Digest", min_length=12)


class NamedScanner(_Part):
    """A scanner model, whole."""

    digest: str = Field(alias="Digest")
    model: dict[str, Any] = Field(alias="Model")


class Parameters(_Part):
    """Options of the run."""

    seed: int = Field(alias="Seed")
    device: str = Field(alias="Device")
    keep_bias: bool = Field(alias="KeepBias")
    mask: Named | None = Field(alias="Mask")
    mask_command: str | None = Field(alias="MaskCommand")
    refine: bool = Field(alias="Refine")
    scanner: NamedScanner | None = Field(alias="Scanner")


class Record(_Part):
    """All that repeating a run needs.

    Attributes:
        sources: Name of the scan, or its place in the data set.
        digest: Its SHA-256.
        target: The model.
        method: Name of the method.
        parameters: Its options.
        results: Name of each file written → its SHA-256.
        versions: Of everything that decides a result.
    """

    sources: tuple[Place] = Field(alias="Sources")
    digest: Digest = Field(alias="SourceSHA256")
    target: NamedTarget = Field(alias="Target")
    method: str = Field(alias="Method")
    parameters: Parameters = Field(alias="Parameters")
    results: dict[FileName, Digest] = Field(alias="Results", min_length=1)
    versions: dict[str, str] = Field(alias="Versions")

    @property
    def source(self) -> Named:
        """The scan."""
        return Named(Name=self.sources[0].rpartition("/")[2], SHA256=self.digest)


def read_record(path: Path) -> Record:
    """Read the sidecar of a harmonized scan.

    Raises:
        InputError: If it is none, was written before runs could be repeated, or its scan or mask was no file.
    """
    remedy = "give the .json beside a harmonized scan"
    try:
        return Record.model_validate(parse_json(read_text(path)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])[:80]
        raise InputError(
            f"this sidecar cannot be repeated from ({where}: {first['msg'][:80]})", remedy=remedy, path=path
        ) from None
    except ValueError as error:
        raise InputError(f"this is no sidecar ({str(error)[:80]})", remedy=remedy, path=path) from None
