"""The steps around a rehearsal, for a store on a MariaDB server: nothing keeps its password, and its data stay."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import databases
import pytest
from rehearsed import rehearsed

from zenml_upgrade_kit import cli, decision, demo, inventory, plan, preflight, smoke, stores
from zenml_upgrade_kit.artifacts import check, rescue
from zenml_upgrade_kit.environments import Environment
from zenml_upgrade_kit.errors import RunUnusable
from zenml_upgrade_kit.findings import Status, StepResult
from zenml_upgrade_kit.rehearsal import copies
from zenml_upgrade_kit.runs import Run
from zenml_upgrade_kit.stores import mysql
from zenml_upgrade_kit.stores.address import Server

ASKING = """
import json, os
from zenml.client import Client
from zenml.materializers.built_in_materializer import BuiltInMaterializer

class AskingMaterializer(BuiltInMaterializer):
    ASSOCIATED_TYPES = (int,)
    SKIP_REGISTRATION = True

    def load(self, data_type):
        names = [pipeline.name for pipeline in Client().list_pipelines()]
        assert not names, "it sees the store"
        assert not [one for one in os.environ.values() if "mysql:" in one], "it has got the store's address"
        return 0
"""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A store on a server, a run of its upgrade, and what each step found; held: all the run's files, afterwards."""

    store: Server
    run: Run
    results: dict[str, StepResult]
    unchanged: bool


@pytest.fixture(scope="module", params=["0.55.5", "0.70.0"])
def site(
    request: pytest.FixtureRequest,
    mysql_store: Callable[..., Server],
    zenml_mariadb: Server,
    environment: Callable[[str], Environment],
    tmp_path_factory: pytest.TempPathFactory,
) -> Site:
    """All steps of a run; two artifacts have files: ``customers`` asks ZenML's client, ``churn_rate`` does not."""
    folder, source = tmp_path_factory.mktemp("server"), environment(request.param)
    store = mysql_store(request.param, on=zenml_mariadb)
    code = shutil.copytree(demo.SAMPLE, folder / "code")
    (code / "asking.py").write_text(ASKING)
    _with_files(store, folder / "local")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROD", databases.zenml_url(store))
        entries = [{"target": "churn.pipelines:facts_pipeline"}, {"target": "churn.pipelines:publishing_pipeline"}]
        values = {"store": "env:PROD", "to": "0.98.0", "out": str(folder / "runs"), "code": str(code)}
        run = preflight.start(plan.make({**values, "pipelines": entries}))
        before, results = stores.identity(store), dict[str, StepResult]()

        def carry_out(name: str, verb: Callable[..., StepResult]) -> None:
            step = run.begin(name)
            results[name] = verb(step)
            run.save(results[name])
            run.release(name)

        carry_out("00_start", preflight.begin_facts)
        target = environment("0.98.0")
        found = {"environments": {"source": source.to_json(), "target": target.to_json()}}
        carry_out("10_preflight", lambda step: step.result((), found))
        rehearsed(run, target)
        carry_out("40_artifacts", check.reload)
        carry_out("50_smoke_runs", smoke.run)
        carry_out("again", smoke.run)  # on a server, what the first attempt left is in the copy
        with copies.reopen(run) as (_, migrated):
            assert isinstance(migrated, Server)
        carry_out("60_decision", decision.decide)
        return Site(store=store, run=run, results=results, unchanged=stores.identity(store) == before)


def _with_files(store: Server, local: Path) -> None:
    """Give two of the artifacts files, below a folder that no configuration names."""
    with closing(mysql.connect(store, write=True)) as connection:
        for name, change in (("customers", True), ("churn_rate", False)):
            (row,) = connection.execute(
                "SELECT v.id, v.uri, v.artifact_store_id FROM artifact_version AS v JOIN artifact AS a"
                f" ON a.id = v.artifact_id WHERE a.name = '{name}' ORDER BY v.created DESC, v.id LIMIT 1"
            )
            kept = inventory.dashed(row["artifact_store_id"])
            below = f"{kept}/{row['uri'].partition(f'/{kept}/')[2]}"
            (local / below).mkdir(parents=True)
            (local / below / "data.json").write_text("7")
            connection.execute(f"UPDATE artifact_version SET uri = '{local / below}' WHERE id = '{row['id']}'")
            if change:
                asking = json.dumps({"module": "asking", "attribute": "AskingMaterializer", "type": "user"})
                connection.execute(f"UPDATE artifact_version SET materializer = '{asking}' WHERE id = '{row['id']}'")


def test_the_source_stays_as_it_was(site: Site) -> None:
    assert site.unchanged
    assert site.results["60_decision"].facts["verdict"] in ("GO_WITH_WARNINGS", "NO_GO")
    assert not [finding for finding in site.results["60_decision"].findings if finding.id == "OP805"]


def test_artifacts_are_those_of_the_server_and_without_files_they_are_lost(site: Site) -> None:
    facts = site.results["40_artifacts"].facts
    lines = [json.loads(line) for line in (site.run.folder / check.FILE).read_text().splitlines()]
    outcomes = {line["outcome"] for line in lines}
    assert facts["total"] == len(lines) == 18
    assert (facts["counts"]["lost"], facts["counts"]["identical"], outcomes) == (16, 2, {"lost", "identical"})
    lost = [finding for finding in site.results["40_artifacts"].findings if finding.id == "AR607"]
    assert lost
    assert {finding.severity.value for finding in site.results["40_artifacts"].findings} == {"warn"}
    [cause] = facts["causes"]
    assert {(step["file"], step["line"] > 0) for step in cause["steps"]} == {("churn/pipelines.py", True)}


def test_files_below_a_folder_that_nobody_named_are_read_where_they_are(site: Site) -> None:
    assert not [finding for finding in site.results["40_artifacts"].findings if finding.id == "AR603"]


def test_loading_gets_no_store_and_code_that_asks_for_one_is_told_of(site: Site) -> None:
    lines = [json.loads(line) for line in (site.run.folder / check.FILE).read_text().splitlines()]
    assert {line["name"] for line in lines if line["outcome"] == "identical"} == {"customers", "churn_rate"}
    [told] = [one for one in site.results["40_artifacts"].not_checked if "ZenML's client" in one]
    assert told.startswith("1 artifact version: ")


def test_smoke_runs_go_into_the_migrated_copy_itself(site: Site) -> None:
    first, again = site.results["50_smoke_runs"], site.results["again"]
    assert first.facts["store"] == "the migrated copy itself"
    for result in (first, again):
        assert [report["status"] for report in result.facts["runs"]] == ["completed", "completed"]
        assert {report["expected"] for report in result.facts["runs"]} <= {"completed", "failed"}
    runs = [report["run_id"] for result in (first, again) for report in result.facts["runs"]]
    assert len(set(runs)) == 4
    told = [
        {
            (report["pipeline"], one["step"], one["output"], one["old"])
            for report in result.facts["runs"]
            for one in report["outputs"]
        }
        for result in (first, again)
    ]
    assert told[0] == told[1], "both are compared with the source's own runs"
    with closing(mysql.connect(site.store)) as connection:
        there = {row[0] for row in connection.execute("SELECT id FROM pipeline_run")}
    assert not there & {run.replace("-", "") for run in runs}


def test_the_copies_are_gone_afterwards(site: Site) -> None:
    assert site.results["60_decision"].facts["removed"]
    assert not [one for one in copies.listed(site.store) if one["run"] == str(site.run.folder)]


def test_no_file_of_the_run_has_the_password(site: Site) -> None:
    password = databases.PASSWORD
    forms = {password, quote(password, safe=""), base64.b64encode(password.encode()).decode()}
    files = [path for path in site.run.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 20
    told = {str(path): form for path in files for form in forms if form.encode() in path.read_bytes()}
    assert told == {}
    assert not [form for form in forms if form in repr([result.to_json() for result in site.results.values()])]


def test_a_rescue_of_a_server_says_that_it_needs_a_file(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in (rescue.rescue, rescue.apply):
        with pytest.raises(RunUnusable, match="cannot be rescued yet") as raised:
            verb(site.run)
        assert databases.PASSWORD not in str(raised.value)
    assert cli.main(["rescue", str(site.run.folder)]) == 2
    assert "cannot be rescued yet" in capsys.readouterr().err


def test_check_looks_at_a_server(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROD", databases.zenml_url(site.store))
    assert cli.main(["check", "--store", "env:PROD", "--to", "0.98.0", "--format", "json"]) == 0
    said = capsys.readouterr()
    result = StepResult.from_json(json.loads(said.out))
    assert (result.status, result.facts["store"]["engine"]) == (Status.PASS, "mysql")
    assert databases.PASSWORD not in said.out + said.err
