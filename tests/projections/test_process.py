"""The projector as its own process, over a real NATS and a real PostgreSQL, killed in the middle."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from infra.jetstream.connection import JetStream
from infra.settings import Nats, Settings
from projections.queries import open_read_models
from projections.waiting import ReadModelProgress
from tests.projections.histories import records, submitted
from tests.service_process import ServiceProcess

pytestmark = pytest.mark.integration

TENANT = "projectorprocess"


async def test_killed_and_started_again(nats_url: str, postgres_url: str, tmp_path: Path) -> None:
    """A projector that is killed goes on where it was; a stopped one ends with 0."""
    settings = Settings(tenant=TENANT, nats=Nats(url=nats_url))
    jetstream = await JetStream.connect(settings, "test")
    await jetstream.ensure_streams()

    async def submit(number: int) -> int:
        (record,) = records(("task", f"shop-{number}", submitted(number)))
        return await jetstream.log.append(record.envelope, expected=0)

    def start() -> ServiceProcess:
        return ServiceProcess(
            "projector",
            ["-m", "projections"],
            tmp_path / "home",
            nats_url,
            CAIRN_TENANT=TENANT,
            CAIRN_POSTGRES__URL=postgres_url,
        )

    models = await open_read_models(postgres_url, TENANT)
    async with ReadModelProgress(postgres_url, TENANT) as progress:
        first = start()
        assert await progress.wait_for(await submit(1), 20)
        first.popen.kill()
        first.close()
        missed = await submit(2)
        second = start()
        assert await progress.wait_for(missed, 20)
        assert await progress.wait_for(await submit(3), 20)
        second.until_ready()
        second.popen.send_signal(signal.SIGTERM)
        assert second.wait() == 0
        second.close()
    assert sorted(row["id"] for row in await models.tasks()) == ["shop-1", "shop-2", "shop-3"]
    assert len(second.log_lines("rebuilding the read models")) == 1
    await models.close()
    await jetstream.close()
