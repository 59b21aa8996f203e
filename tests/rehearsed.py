"""Runs as the rehearsal of the migration leaves them, for tests of the steps after it."""

from __future__ import annotations

from pathlib import Path

from zenml_upgrade_kit import backup
from zenml_upgrade_kit.probing import Environment
from zenml_upgrade_kit.rehearsal import copies, migration
from zenml_upgrade_kit.runs import Run
from zenml_upgrade_kit.stores.address import Server


def rehearsed(run: Run, target: Environment | None = None) -> tuple[Path | Server, Path | Server]:
    """The copies ``before`` and ``migrated`` of a new backup; nothing is migrated without a target."""
    made = run.begin("20_backup")
    made.finish(backup.back_up(made))
    step = run.begin("30_rehearsal")
    with copies.site(step, backup.of_run(run), run.plan.rehearsal) as site:
        before, _ = site.restore("before")
        migrated, _ = site.restore("migrated")
        if target:
            told = copies.variables(migrated, target.version)
            hop = migration.migrate(target, migrated, folder=step.work / "hop", variables=told, timeout=600)
            assert not hop.error, hop.error
        step.finish(step.result((), {"copies": site.state()}))
    return before, migrated
