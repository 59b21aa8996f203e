"""Retention: what restic would keep is kept, and never is the last good backup removed."""

import io
import itertools
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zenml_upgrade_kit import archive
from zenml_upgrade_kit.archive import Backup
from zenml_upgrade_kit.errors import BadPlan
from zenml_upgrade_kit.places import Place, open_place
from zenml_upgrade_kit.retention import Choice, Policy, forget, plan

settings.register_profile("retention", deadline=None)
settings.load_profile("retention")
START = datetime(2026, 1, 1, 2, 30, tzinfo=timezone.utc)
NUMBERS = itertools.count()


def held(moment: datetime, source: str = "one", *, hashed: bool = False, problem: str = "") -> Backup:
    """A backup as a list of them knows it: its manifest, and its record of being verified."""
    manifest = {"started": moment.isoformat(), "source": source, "files": []}
    backup = Backup(place=open_place("memory://retention"), name=str(next(NUMBERS)), manifest=manifest)
    if hashed or problem:
        backup.record(hashed=moment.isoformat() if hashed else None, problem=problem)
    return backup


def nightly(days: int) -> list[Backup]:
    return [held(START + timedelta(days=day)) for day in range(days)]


def kept(choices: Sequence[Choice]) -> list[Backup]:
    return [choice.backup for choice in choices if choice.keep]


def days_kept(choices: Sequence[Choice]) -> list[str]:
    return [f"{backup.started:%m-%d}" for backup in kept(choices)]


def test_the_last_ones() -> None:
    assert days_kept(plan(nightly(10), Policy(keep_last=3))) == ["01-10", "01-09", "01-08"]


def test_the_newest_of_each_day_that_has_one() -> None:
    hours = [held(START + timedelta(hours=hour)) for hour in range(0, 24 * 9, 6) if not 48 <= hour < 96]
    choices = plan(hours, Policy(keep_daily=6))
    assert days_kept(choices) == ["01-09", "01-08", "01-07", "01-06", "01-05", "01-02"]
    assert {backup.started.hour for backup in kept(choices)} == {20}


def test_weeks_begin_on_monday_and_months_on_the_first() -> None:
    choices = plan(nightly(120), Policy(keep_weekly=3, keep_monthly=3))
    assert [(choice.backup.started.strftime("%a %m-%d"), choice.reasons) for choice in choices if choice.keep] == [
        ("Thu 04-30", ["newest", "weekly", "monthly"]),
        ("Sun 04-26", ["weekly"]),
        ("Sun 04-19", ["weekly"]),
        ("Tue 03-31", ["monthly"]),
        ("Sat 02-28", ["monthly"]),
    ]


def test_a_week_over_new_year_is_one_week() -> None:
    around = [held(datetime(2026, 12, 28, tzinfo=timezone.utc) + timedelta(days=day)) for day in range(7)]
    choices = plan([held(START), *around], Policy(keep_weekly=1))
    assert days_kept(choices) == ["01-03"]


def test_the_same_week_of_another_year_is_another_week() -> None:
    backups = [held(datetime(*day, tzinfo=timezone.utc)) for day in ((2024, 1, 1), (2025, 6, 10), (2026, 6, 9))]
    assert days_kept(plan(backups, Policy(keep_weekly=2))) == ["06-09", "06-10"]


def test_the_oldest_stays_while_counts_are_left() -> None:
    choices = plan(nightly(3), Policy(keep_monthly=12))
    assert [choice.reasons for choice in choices] == [["newest", "monthly"], [], ["oldest monthly"]]


def test_a_year_of_nights_settles() -> None:
    """Forgetting every night is the same as having every rule's newest."""
    policy, backups = Policy(keep_daily=7, keep_weekly=5, keep_monthly=12), list[Backup]()
    for backup in nightly(500):
        backups = kept(plan([*backups, backup], policy))
    assert days_kept(plan(backups, policy)) == days_kept(plan(nightly(500), policy))
    assert len(backups) == 7 + 3 + 11  # this week, last week and this month begin among the days


def test_a_damaged_backup_uses_up_no_count() -> None:
    good = [held(START), held(START + timedelta(days=1), hashed=True)]
    damaged = [held(START + timedelta(days=day), problem="stored files: …") for day in (2, 3, 4)]
    choices = plan([*good, *damaged], Policy(keep_last=2))
    assert days_kept(choices) == ["01-05", "01-02", "01-01"]


def test_the_newest_verified_one_stays_however_old() -> None:
    first = nightly(1)
    verified = [held(START + timedelta(days=day), hashed=True) for day in (1, 2)]
    later = [held(START + timedelta(days=day)) for day in range(3, 30)]
    choices = plan([*first, *verified, *later], Policy(keep_last=1))
    assert [choice.reasons for choice in choices if choice.keep] == [["newest", "last"], ["newest verified"]]
    assert days_kept(choices) == ["01-30", "01-03"]


@pytest.mark.parametrize("counts", [{}, {"keep_daily": 0}, {"keep_last": 2, "keep_daily": -1}])
def test_a_policy_that_says_nothing_is_refused(counts: dict[str, int]) -> None:
    with pytest.raises(BadPlan, match="--keep-daily 7"):
        Policy(**counts)


counts = st.integers(0, 3)
policies = (
    st.tuples(counts, counts, counts, counts)
    .filter(any)
    .map(lambda four: Policy(keep_last=four[0], keep_daily=four[1], keep_weekly=four[2], keep_monthly=four[3]))
)
moments = st.integers(0, 24 * 100).map(lambda hours: START + timedelta(hours=hours))
some_backups = st.lists(
    st.builds(
        held,
        moments,
        st.sampled_from(["one", "two"]),
        hashed=st.booleans(),
        problem=st.sampled_from(["", "", "damaged"]),
    ),
    min_size=4,
    max_size=30,
    unique_by=lambda backup: backup.started,
)


@given(some_backups, policies)
def test_the_newest_of_a_source_and_its_newest_verified_always_stay(backups: list[Backup], policy: Policy) -> None:
    stay = kept(plan(backups, policy))
    for source in {backup.manifest["source"] for backup in backups}:
        own = sorted((one for one in backups if one.manifest["source"] == source), key=lambda one: one.started)
        assert own[-1] in stay
        good = [one for one in own if one.verified["hashed"] and not one.verified["problem"]]
        assert good[-1:] == [one for one in good[-1:] if one in stay]


@given(some_backups, policies)
def test_every_backup_is_judged_once_and_kept_for_a_reason(backups: list[Backup], policy: Policy) -> None:
    choices = plan(backups, policy)
    assert [choice.backup.started for choice in choices] == sorted((one.started for one in backups), reverse=True)
    assert all(choice.keep == bool(choice.reasons) for choice in choices)


@given(some_backups, policies)
def test_sources_do_not_count_for_each_other(backups: list[Backup], policy: Policy) -> None:
    apart = [
        choice
        for source in ("one", "two")
        for choice in plan([one for one in backups if one.manifest["source"] == source], policy)
    ]
    together = plan(backups, policy)
    assert sorted(apart, key=lambda choice: choice.backup.started, reverse=True) == together


@given(some_backups, policies)
def test_forgetting_twice_removes_nothing_more(backups: list[Backup], policy: Policy) -> None:
    once = kept(plan(backups, policy))
    assert kept(plan(once, policy)) == once


@given(some_backups, policies, policies)
def test_a_more_generous_policy_keeps_no_less(backups: list[Backup], policy: Policy, more: Policy) -> None:
    generous = Policy(**{name: count + vars(more)[name] for name, count in vars(policy).items()})
    assert {one.name for one in kept(plan(backups, policy))} <= {one.name for one in kept(plan(backups, generous))}


@given(some_backups, st.integers(1, 8))
def test_of_the_last_days_that_have_a_sound_backup_the_newest_stays(backups: list[Backup], count: int) -> None:
    sound = [one for one in backups if one.manifest["source"] == "one" and not one.verified["problem"]]
    newest = {one.started.date(): one for one in sorted(sound, key=lambda one: one.started)}
    stay = kept(plan(backups, Policy(keep_daily=count)))
    assert all(newest[day] in stay for day in sorted(newest)[-count:])


@pytest.fixture(params=["a folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place with four backups, an unreadable one among them, and a folder of somebody else."""
    url = request.getfixturevalue("bucket") if request.param == "s3" else str(tmp_path / "place")
    place = open_place(url)
    for _ in range(4):
        with archive.create(place, "0.70.0") as new:
            new.add("database.sql", io.BytesIO(b"x"), role="database")
            made = new.finish({"source": "one"})
    with place.write(f"{made.name}/manifest.json") as file, place.write("photos/manifest.json") as other:
        file.write(b"{")
        other.write(b"{}")
    return place


def test_a_dry_run_removes_nothing(place: Place) -> None:
    before = place.folders()
    choices = forget(place, Policy(keep_last=1), apply=False)
    assert [choice.keep for choice in choices] == [True, False, False]
    assert place.folders() == before


def test_what_is_forgotten_is_gone_and_nothing_else(place: Place) -> None:
    before = place.folders()
    choices = forget(place, Policy(keep_last=1), apply=True)
    gone = {choice.backup.name for choice in choices if not choice.keep}
    assert len(gone) == 2
    assert place.folders() == [name for name in before if name not in gone]
    assert archive.verify(choices[0].backup) == []
