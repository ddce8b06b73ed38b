"""`headgate agent --builtin catalog`: the catalog as a process of its own, against a gateway that keeps none."""

import json
import random
from pathlib import Path

from tests.support.catalog_model import messages_of, model_of, read_table
from tests.support.command import run_command
from tests.support.gateway import Gateway
from tests.support.http import ask
from tests.support.nats_client import open_embedded_log
from tests.support.postgres import open_real_postgres


async def test_the_catalog_can_be_kept_by_an_agent(gateway: Gateway, tmp_path: Path, chance: random.Random) -> None:
    """It fills the database that the environment names; started again over the same messages it changes nothing."""
    for body in messages_of(chance, 30, 40, 200):
        answer = await ask(gateway.url, "POST", "/ingest", {"Content-Type": "application/json"}, body)
        assert answer.status == 200, answer.body
    async with open_embedded_log(gateway) as log:
        stored = [one for one in await log.read_stream("SNAPFS_FILES") if one.subject == "snapfs.files"]
    model = model_of((one.sequence, one.data) for one in stored)
    (tmp_path / "out").mkdir()
    async with open_real_postgres(tmp_path / "pg") as real:
        folder = tmp_path / "pg" / "postgres"
        env = {"DB_HOST": str(folder), "DB_PASSWORD": (folder / "secret").read_text(), "DB_NAME": "postgres"}
        words = ["--gateway", gateway.url, "--builtin", "catalog", "--until-idle", "0.5", "--json"]
        for durable in ("catalog-a", "catalog-b"):
            ended = await run_command(tmp_path / "out", "agent", "--durable", durable, *words, env=env)
            assert ended.code == 0, ended.err
            for line in ended.out.splitlines():
                json.loads(line)
            assert await read_table(real.databases.owner) == model.files
        assert await real.fetch("SELECT count(*) AS n FROM catalog.epochs") == [{"n": 1}]


async def test_an_agent_without_a_catalog_says_so(gateway: Gateway, tmp_path: Path) -> None:
    """With HEADGATE_CATALOG=off there is nothing to keep, and the words name the variable."""
    words = ["agent", "--gateway", gateway.url, "--durable", "c", "--builtin", "catalog", "--once"]
    ended = await run_command(tmp_path, *words, env={"HEADGATE_CATALOG": "off"})
    assert ended.code != 0
    assert "HEADGATE_CATALOG is off" in ended.err
