"""Builds a sample deployment with an old ZenML release, to rehearse an upgrade on."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zenml_upgrade_kit import environments, probing, pythons, releases
from zenml_upgrade_kit.errors import ProbeFailed, RunUnusable
from zenml_upgrade_kit.releases import Release

DEFAULT = "0.70.0"
"""The release of the sample where a Python on the machine supports it."""

SAMPLE = Path(__file__).parent / "sample"
"""Code and requirements of the sample, as a team might keep them."""

PIPELINES = ("facts_pipeline", "training_pipeline", "publishing_pipeline")


def build(folder: Path, version: str = "", log: Callable[[str], None] = print) -> dict[str, Any]:
    """Fill a new deployment below ``folder`` with runs of an old release; the values for :func:`plan.make`.

    version: from 0.43.0 on; empty means :data:`DEFAULT`, or the oldest that a Python of this machine supports. The new
    folder, ``sample-<version>`` with a number if need be, holds ``deployment`` (a ZenML config directory) and ``code``.
    It is made in its final place, since a store holds absolute paths, and removed again when it cannot be completed.
    """
    release = releases.get(version) if version else _default(log)
    environment = environments.ensure(release.version, requirements=SAMPLE / "requirements.txt", log=log)
    sample = _new(folder.absolute(), f"sample-{release.version}")
    log(f"running the sample pipelines with ZenML {release.version} in {sample}")
    try:
        deployment, code = sample / "deployment", sample / "code"
        deployment.mkdir()
        shutil.copytree(SAMPLE, code, ignore=shutil.ignore_patterns("__pycache__"))
        ended = probing.run_command(
            environment,
            [str(environment.python), "-B", "run.py"],
            folder=sample / "scratch",
            variables={
                "ZENML_CONFIG_PATH": str(deployment),
                "ZENML_LOCAL_STORES_PATH": str(deployment / "local_stores"),
            },
            timeout=900,
            cwd=code,
        )
        if ended.returncode != 0:
            raise ProbeFailed(
                f"the sample deployment could not be built with ZenML {release.version}",
                expected="sample pipelines that run",
                found=f"exit code {ended.returncode}; it said last: {ended.last_lines()}",
                remedy="try another release with --from, or rehearse on a store of your own",
            )
        ended.log.rename(sample / "build.log")
        shutil.rmtree(sample / "scratch")
    except BaseException:
        shutil.rmtree(sample, ignore_errors=True)
        raise
    pipelines = [{"target": f"churn.pipelines:{name}"} for name in PIPELINES]
    return {"store": str(deployment), "code": str(code), "pipelines": pipelines}


def _default(log: Callable[[str], None]) -> Release:
    """:data:`DEFAULT`, or the oldest sound release that a Python of this machine supports; says so if another one."""
    found = [python.version for python in pythons.find()]
    default = releases.get(DEFAULT)
    sound = [release for release in releases.all() if not (release.yanked or release.prerelease or release.avoid)]
    fitting = (one for one in [default, *sound] if any(one.supports_python(version) for version in found))
    release = next(fitting, default)
    if release is not default:
        log(f"no Python here runs ZenML {DEFAULT}; the sample is built with {release.version} instead")
    return release


def _new(folder: Path, name: str) -> Path:
    """A folder that did not exist: the name, or the name with a number."""
    numbered = (folder / (name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    sample = next(path for path in numbered if not path.exists())
    try:
        sample.mkdir(parents=True)
    except OSError as error:
        raise RunUnusable(
            f"the sample deployment cannot be built in {folder}",
            expected="a folder that you may write to",
            found=error.strerror or str(error),
            remedy="choose another folder with --out",
        ) from None
    return sample
