"""Files of the Hugging Face hub, through huggingface_hub's own cache: downloads resume, are checksummed and atomic.

What the cache holds is used as it is, without asking the hub; `hf download org/name` brings a newer revision.
HF_HUB_OFFLINE=1 serves from the cache alone; HF_HOME, HF_ENDPOINT and HF_TOKEN mean what they mean there.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from clipfast.errors import CheckpointError


class HubRepository:
    """One repository at one revision: `fetch` returns local files."""

    def __init__(self, repository: str, revision: str | None = None) -> None:
        self.name = repository
        self.revision = revision
        self._unreachable: Exception | None = None

    def fetch(self, file: str) -> Path | None:
        """The local path of a file, downloaded if need be; None when the repository (or, offline, the cache) has none.

        Raises: CheckpointError when the repository or revision does not exist, or may not be read.
        """
        try:
            cached = try_to_load_from_cache(self.name, file, revision=self.revision)
            if cached is _CACHED_NO_EXIST:  # the hub was asked before
                return None
            if isinstance(cached, str):
                return Path(cached)
            return Path(
                hf_hub_download(
                    self.name,
                    file,
                    revision=self.revision,
                    local_files_only=self._unreachable is not None,
                )
            )
        except (
            LocalEntryNotFoundError
        ) as error:  # unreachable, or offline: do not wait for every other file
            self._unreachable = self._unreachable or error
            return None
        except EntryNotFoundError:
            return None
        except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
            raise CheckpointError(
                f"hf-hub:{self.name}: no such repository or revision, or no right to read it ({_first_line(error)})"
            ) from error
        except (HfHubHTTPError, OSError) as error:
            raise CheckpointError(
                f"hf-hub:{self.name}: cannot download {file} ({_first_line(error)})"
            ) from error

    def nothing_found(self) -> CheckpointError:
        """The error for a repository in which no weight file could be fetched."""
        if self._unreachable is not None:
            return CheckpointError(
                f"hf-hub:{self.name}: not in the local cache, and the hub cannot be reached "
                f"({_first_line(self._unreachable)}); on a machine with a network run `hf download {self.name}`, or "
                "pass the path of a weight file"
            )
        return CheckpointError(f"hf-hub:{self.name}: holds no weight file that clipfast reads")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
