"""Whether a database has the shape that its own release gives one; a migration that was killed leaves a mixture.

DDL commits by itself on MySQL and MariaDB, and ZenML does not restore after a kill, so that a database may be between
two releases under the stamp of the first; the next migration then fails at the same place.
"""

from __future__ import annotations

import json
from contextlib import closing, suppress
from pathlib import Path

from zenml_upgrade_kit import environments, stores
from zenml_upgrade_kit.errors import KitError, StoreUnreadable
from zenml_upgrade_kit.findings import Finding, Severity
from zenml_upgrade_kit.probing import Environment
from zenml_upgrade_kit.rehearsal import copies, migration
from zenml_upgrade_kit.rehearsal.copies import Site
from zenml_upgrade_kit.runs import write_whole
from zenml_upgrade_kit.stores import shapes
from zenml_upgrade_kit.stores.address import Server

PATIENCE = 600.0
"""Seconds for a release to make an empty database; measured: 2 to 5 on SQLite."""


def half_migrated(
    site: Site, environment: Environment, stamp: str, database: Path | Server, folder: Path
) -> tuple[list[Finding], list[str]]:
    """A finding where tables, columns or unique rules are not those of an empty database of the same release.

    environment: the release that the store is used with; it makes that empty database at the site, once for each
    engine: its shape is kept beside the cached environments. Also: why nothing could be compared.
    """
    engine = site.backup.manifest["engine"]
    kept = environments.cache_folder().parent / "shapes" / f"{environment.version}-{engine}.json"
    try:
        if not (wanted := _kept(kept)):
            wanted = _made(site, environment, stamp, folder)
            with suppress(OSError):  # it is made again
                write_whole(kept, json.dumps({table: sorted(lines) for table, lines in wanted.items()}))
        with closing(stores.connect(database)) as held:
            wrong = shapes.differences(wanted, shapes.of(held))
    except KitError as error:
        return [], [f"the shape of the database: {error.problem}: {error.found}"]
    return [_mixture(stamp, wrong)] if wrong else [], []


def _kept(path: Path) -> shapes.Shape:
    """The shape that an earlier rehearsal saw; none when there is no whole one."""
    try:
        return {table: set(lines) for table, lines in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _made(site: Site, environment: Environment, stamp: str, folder: Path) -> shapes.Shape:
    """The shape of an empty database of a release, which is made for it and removed."""
    fresh = site.empty("reference")
    try:
        variables = copies.variables(fresh, environment.version)
        hop = migration.migrate(environment, fresh, folder=folder, variables=variables, timeout=PATIENCE)
        if hop.error or hop.reached != stamp:
            raise StoreUnreadable(
                f"ZenML {environment.version} made no empty database to compare with",
                expected=f"one at {stamp}",
                found=hop.error["message"].splitlines()[0] if hop.error else f"one at {hop.reached}",
                remedy=f"read the log, {hop.log}",
            )
        with closing(stores.connect(fresh)) as connection:
            return shapes.of(connection)
    finally:
        site.remove(fresh)


def _mixture(stamp: str, wrong: list[tuple[str, str]]) -> Finding:
    told = "; ".join(f"{table} {what}" for table, what in wrong[:5])
    more = f" (and {len(wrong) - 5} more)" if len(wrong) > 5 else ""
    return Finding(
        id="DB004",
        severity=Severity.BLOCK,
        subject="schema",
        message=f"The database does not have the shape of its stamp {stamp}: {told}{more}."
        " An earlier migration may have stopped midway.",
        remedy="Restore the backup from before that attempt. Do not run the migration again: it stops there again.",
        data={"differences": [list(one) for one in wrong]},
    )
