"""Google Cloud Storage as a file system: opening, and error types."""

from unitok_jax.system.extras import how_to_install


def open_files(pattern: str, where: str):
    """Opens the fsspec file system of a gs:// path or pattern; `where` begins messages.

    Raises:
        ValueError: not a gs:// path, or no installed package can read it.
    """
    import fsspec

    if not pattern.startswith("gs://"):
        raise ValueError(f"{where}: shards are local or gs://")
    try:
        return fsspec.filesystem("gs")
    except ImportError as error:
        raise ValueError(
            f"{where} needs a package to be read, {how_to_install('gcs')} ({error})"
        ) from error
    except errors() as error:
        raise ValueError(f"{where} cannot be read: {error}") from error


def errors() -> tuple[type[Exception], ...]:
    """Returns the exceptions that the file system raises when it cannot read."""
    try:
        import aiohttp
        import gcsfs.retry
        import google.auth.exceptions
    except ImportError:
        return (OSError,)
    cloud = gcsfs.retry.HttpError, gcsfs.retry.ChecksumError, gcsfs.retry.NonRetryableError
    return OSError, aiohttp.ClientError, google.auth.exceptions.GoogleAuthError, *cloud


def is_denied(error: Exception) -> bool:
    """Returns True if an error says that credentials are missing or insufficient."""
    return (
        getattr(error, "code", None) in (401, 403, "401", "403")
        or type(error).__module__ == "google.auth.exceptions"
        or isinstance(error, PermissionError)
        or str(error).startswith("Forbidden")
    )
