"""Whether a database has the shape that its own release gives one; a migration that was killed leaves a mixture.

DDL commits by itself on MySQL and MariaDB, and ZenML does not restore after a kill, so that a database may be between
two releases under the stamp of the first; the next migration then fails at the same place.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from zenml_upgrade_kit import copies, migration, stores
from zenml_upgrade_kit.copies import Site
from zenml_upgrade_kit.errors import KitError
from zenml_upgrade_kit.findings import Finding, Severity
from zenml_upgrade_kit.probing import Environment
from zenml_upgrade_kit.stores import shapes
from zenml_upgrade_kit.stores.address import Server

PATIENCE = 600.0
"""Seconds for a release to make an empty database; measured: 2 to 5 on SQLite."""


def half_migrated(
    site: Site, environment: Environment, stamp: str, database: Path | Server, folder: Path
) -> tuple[list[Finding], list[str]]:
    """A finding where tables, columns or unique rules are not those of an empty database of the same release.

    environment: the release that the store is used with; it makes that empty database at the site. Also: why nothing
    could be compared.
    """
    made = None
    try:
        made = site.empty("reference")
        hop = migration.migrate(
            environment, made, folder=folder, variables=copies.variables(made, environment.version), timeout=PATIENCE
        )
        if hop.error or hop.reached != stamp:
            found = hop.error["message"].splitlines()[0] if hop.error else f"it makes one of {hop.reached}"
            return [], [f"the shape of the database: ZenML {environment.version} made no empty one to compare: {found}"]
        with closing(stores.connect(made)) as fresh, closing(stores.connect(database)) as held:
            wrong = shapes.differences(shapes.of(fresh), shapes.of(held))
    except KitError as error:
        return [], [f"the shape of the database: {error.problem}: {error.found}"]
    finally:
        if made:
            site.remove(made)
    return [_mixture(stamp, wrong)] if wrong else [], []


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
