"""What the URL of a schedule store says is what it gets, and a connection that was lost is made anew."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import sqlalchemy as sa

from flowrra.scheduler.backends import SQLiteSchedulerBackend, get_scheduler_backend
from flowrra.scheduler.backends.sql import SqlSchedulerBackend
from tests.scheduler.test_stores import NOW, new_store, once

KILL = {
    "postgresql": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
    "AND datname = current_database() AND usename = current_user",
    "mysql": "SELECT id FROM information_schema.processlist WHERE db = database() AND id <> connection_id()",
}


def server_of(url: str) -> str:
    return url.partition("://")[0]


@pytest.mark.slow
@pytest.mark.parametrize("url", ["postgresql", "mysql"], indirect=True)
async def test_a_connection_that_the_server_closed_is_made_anew(url: str) -> None:
    store, other = new_store(url), new_store(url)
    await store.create(once("a"))
    for row in await other._read(sa.text(KILL[server_of(url)])):
        if server_of(url) == "mysql":
            await other._write(sa.text(f"KILL {next(iter(row.values()))}"))
    assert [task.id for task in await store.list_due(NOW)] == ["a"]
    await store.close()
    await other.close()


@pytest.mark.parametrize("url", ["postgresql", "mysql"], indirect=True)
async def test_a_transaction_sees_what_others_have_committed_meanwhile(url: str) -> None:
    store, other = new_store(url), new_store(url)
    await other.list_all()
    count = sa.text("SELECT count(*) FROM scheduled_tasks")
    async with (await store._open()).begin() as connection:
        assert await connection.scalar(count) == 0
        await other.create(once("a"))
        assert await connection.scalar(count) == 1
    await store.close()
    await other.close()


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
async def test_the_size_of_a_pool_is_that_of_the_url(url: str) -> None:
    store = new_store(f"{url}?pool_min_size=1&pool_max_size=2")
    engine = await store._open()
    async with engine.connect(), engine.connect():
        assert engine.pool.status().startswith("Pool size: 2 ")
        assert "Current Overflow: 0 " in engine.pool.status()
        assert engine.pool._max_overflow == 0  # type: ignore[attr-defined]
    await store.close()


def made(url: str) -> SqlSchedulerBackend:
    store = get_scheduler_backend(url)
    assert isinstance(store, SqlSchedulerBackend)
    return store


def test_sslmode_is_called_as_the_driver_calls_it() -> None:
    assert made("postgres://user@host/db?sslmode=require")._url.query == {"ssl": "require"}
    assert made("postgresql://user@host/db?application_name=me")._url.query == {"application_name": "me"}


def test_the_address_of_a_store_is_without_user_and_password(tmp_path: Path) -> None:
    assert made("postgres://user:secret@db:5433/shop").address == "db:5433/shop"
    assert made("mysql://user:secret@db/shop").address == "db/shop"
    assert made(f"sqlite:///{tmp_path}/s.db").address == f"{socket.gethostname()}:{tmp_path}/s.db"
    assert made("sqlite:///:memory:").address == "", "each process has its own"


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite://", ".flowrra_schedule.db"),
        ("sqlite:///", ".flowrra_schedule.db"),
        ("SQLite:///jobs.db", "jobs.db"),
        ("sqlite:///jobs.db?timeout=30", "jobs.db"),
        ("sqlite:///what%3F.db", "what?.db"),
    ],
)
def test_the_file_of_an_sqlite_url(url: str, path: str) -> None:
    store = made(url)
    assert isinstance(store, SQLiteSchedulerBackend)
    assert store.database_path == store._url.database == path


async def test_an_sqlite_file_can_be_named_by_a_path(tmp_path: Path) -> None:
    store = SQLiteSchedulerBackend(tmp_path / "jobs.db")
    await store.create(once("a"))
    await store.close()
    assert (tmp_path / "jobs.db").exists()
    assert store.address == made(f"sqlite:///{tmp_path}/jobs.db").address


@pytest.mark.parametrize("size", ["many", "-1", "1.5", "²"])
def test_the_size_of_a_pool_is_a_whole_number(size: str) -> None:
    with pytest.raises(ValueError, match="pool_max_size that is no whole number"):
        get_scheduler_backend(f"postgresql://user@host/db?pool_max_size={size}")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql:user@host/db", "lacks the // after its scheme"),
        ("mysql:user@host/db", "lacks the // after its scheme"),
        ("sqlite:jobs.db", "lacks the // after its scheme"),
        ("mssql://user@host/db", "Unsupported scheduler backend: mssql"),
        ("://host/db", "a URL without a scheme"),
        ("postgresql://user:cr@et@host:port/db", "can't be read; in a password write"),
        ("mysql://user:secret@host/db@other", "has an '@' after its host"),
        ("mysql://user:secret@host/db?charset=utf8@other", "has an '@' after its host"),
        ("mysql://user:secret@host/db?charset=utf8@other&charset=utf8", "has an '@' after its host"),
    ],
)
def test_a_url_that_is_none_is_refused_without_a_part_of_it(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        get_scheduler_backend(url)
    assert "cret" not in str(caught.value)
    assert caught.value.__context__ is None


def test_an_at_sign_is_a_part_of_the_path_where_there_is_no_password() -> None:
    assert made("mysql://user@host/db@other")._url.database == "db@other"
    assert made("mysql://user:secret@host/db?charset=utf8mb4")._url.query == {"charset": "utf8mb4"}
