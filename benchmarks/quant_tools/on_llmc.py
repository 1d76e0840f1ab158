"""Runs llmc."""

from __future__ import annotations

import os

from job import Job


def main() -> None:
    job = Job.read()
    os.environ["XDG_CACHE_HOME"] = str(job.folder / "cache")
    import llmc

    with job.stage("quantize"):
        llmc.compile(
            job.model,
            job.checkpoint,
            passes=job.recipe["passes"],
            calib=job.windows_file,
            calib_samples=len(job.windows),
            calib_length=len(job.windows[0]),
        )
    job.measured(llmc.__version__)


if __name__ == "__main__":
    main()
