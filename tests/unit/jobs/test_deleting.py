"""`delete()` and `delete_all()`: a job ends, and nothing of it stays."""

from __future__ import annotations

import asyncio
import io

import pytest

from backjob.errors import InvalidRequest, JobEnded, JobNotFound, StoreUnavailable, StoreUnusable
from backjob.files import MemoryFiles
from backjob.model import Changes, Expect, JsonValue, Status
from backjob.signing import MessageSigner
from backjob.stores.cache import CacheStore
from backjob.testing import FakeClock
from tests.contracts.dict_cache import DictCache
from tests.unit.core import Bench, bench


@pytest.fixture
def world() -> Bench:
    return bench()


def test_a_deleted_job_is_unknown(world: Bench) -> None:
    job_id = world.start(key="once")
    assert world.jobs.delete(job_id) is True
    assert not world.jobs.exists(job_id)
    for call in (world.jobs.status, world.jobs.output, world.jobs.delete, world.jobs.cancel):
        with pytest.raises(JobNotFound):
            call(job_id)
    assert world.start(key="once") != job_id


def test_a_waiting_job_that_is_deleted_is_never_sent(world: Bench) -> None:
    world.jobs.delete(world.start())
    world.step(60)
    assert world.transport.sent == []


def test_a_running_job_is_cancelled_before_it_is_deleted(world: Bench) -> None:
    running = world.run()
    with running.active():
        world.jobs.echo("half")
        world.jobs.update(1, "begun")
        assert world.jobs.delete(running.job.id)
        world.clock.advance(1)
        world.step()  # writes what is pending, and finds no such job
        with pytest.raises(JobEnded):
            world.jobs.update(2)
    assert [state.status for state in world.ended] == [Status.CANCELLED]
    assert world.jobs.find() == []


def test_all_jobs_of_an_owner_are_deleted_and_no_others(world: Bench) -> None:
    own = [world.start(owner="5") for _ in range(250)]
    world.jobs.cancel(own[0])
    kept = {world.start(owner="55"), world.start()}
    assert world.jobs.delete_all(owner="5") == 250
    assert {state.id for state in world.jobs.find()} == kept
    assert world.jobs.delete_all(owner="5") == 0


@pytest.mark.parametrize("owner", ["", None, 5])
def test_no_owner_does_not_mean_everyone(world: Bench, owner: str) -> None:
    world.start()
    with pytest.raises(InvalidRequest, match="owner: "):
        world.jobs.delete_all(owner=owner)
    assert len(world.jobs.find()) == 1


def test_another_applications_jobs_are_not_deleted(world: Bench) -> None:
    other = bench(clock=world.clock, store=world.store.store, signer=MessageSigner("Xo5TgHq1_iWn8-eRkUz3McVb6YsLa0Pd"))
    job_id = world.start(owner="5")
    assert other.jobs.delete_all(owner="5") == 0
    with pytest.raises(JobNotFound):
        other.jobs.delete(job_id)
    assert world.jobs.exists(job_id)


def test_a_store_that_can_not_list_refuses_to_delete_all() -> None:
    clock = FakeClock()
    world = bench(clock=clock, store=CacheStore(DictCache(), clock=clock))
    with pytest.raises(StoreUnusable, match="can't list its jobs"):
        world.jobs.delete_all(owner="5")


def test_the_async_twins_do_the_same(world: Bench) -> None:
    one, _ = world.start(owner="5"), world.start(owner="5")

    async def main() -> tuple[bool, int, int]:
        return await world.jobs.adelete(one), await world.jobs.adelete_all(owner="5"), len(await world.jobs.afind())

    assert asyncio.run(main()) == (True, 1, 0)


class FullDisk(MemoryFiles):
    """Files that can't be deleted while ``is_broken``."""

    is_broken = True

    def delete(self, job_id: str) -> None:
        if self.is_broken:
            raise OSError("read-only file system")
        super().delete(job_id)


def test_a_file_is_deleted_with_its_job_and_a_job_whose_file_stays_stays_too() -> None:
    files = FullDisk()
    world = bench(files=files)
    job_id = world.start()
    files.write(job_id, "kept", io.BytesIO(b"a;b"))
    described: JsonValue = {"name": "a.csv", "type": "text/csv", "size": 3, "key": "kept"}
    assert world.engine.store.change(job_id, Expect(), Changes(file=described))
    with pytest.raises(StoreUnavailable, match="can't be deleted now: read-only file system"):
        world.jobs.delete(job_id)
    assert world.jobs.status(job_id).status is Status.CANCELLED
    files.is_broken = False
    assert world.jobs.delete(job_id)
    assert not world.jobs.exists(job_id)
    with pytest.raises(FileNotFoundError):
        files.open(job_id, "kept")
