"""Every command of the page's table, and what it does that one can see."""

from __future__ import annotations

import json
import math
import random
import re
from collections import defaultdict
from datetime import date
from functools import partial
from typing import Any, Final

import msgspec
import pytest

from examples import zigquant
from tests.examples.peer import GRID, Peer, Server, everywhere, token
from wsbus import CommandError

TABLE: Final = {
    "grid.*.status": {"update"},
    "grid.*.order": {"placed", "filled", "cancelled"},
    "grid.*.trade": {"executed"},
    "grid.*.pnl": {"updated"},
    "grid.*.risk": {"check", "rejected", "kill_switch"},
    "grid.*.lifecycle": {"started", "stopped", "error"},
    "backtest.*.progress": {"update"},
    "backtest.*.lifecycle": {"started", "completed", "cancelled", "error"},
    "strategy.*.status": {"update"},
    "strategy.*.signal": {"generated"},
    "strategy.*.lifecycle": {"started", "stopped", "error"},
    "system.health": {"update"},
    "system.log": {"debug", "info", "warn", "error"},
    "system.kill_switch": {"activated", "deactivated"},
    "system.exchange": {"connected", "disconnected", "error"},
}
"""The page's table of channels; where it has a dash, `update`."""
SAMPLES: Final = {
    ("grid.*.status", "update"): [
        "id",
        "current_price",
        "position",
        "active_buy_orders",
        "active_sell_orders",
        "realized_pnl",
        "unrealized_pnl",
    ],
    ("grid.*.order", "filled"): ["grid_id", "level", "side", "price", "amount", "position_after"],
    ("backtest.*.progress", "update"): [
        "id",
        "progress",
        "current_date",
        "trades_count",
        "current_equity",
    ],
    ("system.log", "info"): ["level", "source", "message"],
    ("system.kill_switch", "activated"): ["reason", "affected"],
}
"""The fields of the page's sample events, in order."""


def general(channel: str) -> str:
    """Return the channel as the table has it."""
    return re.sub(r"^(grid|backtest|strategy)\.[^.]+", r"\1.*", channel)


async def start_grid(peer: Peer, **changes: Any) -> str:
    """Subscribe to all grids and start one; return its id."""
    await peer.subscribe("grid.*", "system.*")
    answer = await peer.command("grid.start", **GRID | changes)
    assert answer["status"] == "starting"
    grid_id: str = answer["grid_id"]
    return grid_id


async def test_the_sample_command_word_for_word(server: Server) -> None:
    """`cmd_001` starts a grid, and is refused when its prices are the wrong way round."""
    async with server.connect(token()) as peer:
        await peer.say(
            '{"type":"command","id":"cmd_001","timestamp":1703836800000,"action":"grid.start",'
            '"params":{"pair":"BTC-USDC","upper_price":100000,"lower_price":90000,"grid_count":10}}'
        )
        frame = await peer.text()
        grid_id = peer.heard[-1]["data"]["grid_id"]
        assert frame == (
            '{"type":"response","id":"cmd_001","timestamp":…,"success":true,'
            f'"data":{{"grid_id":"{grid_id}","status":"starting"}}}}'
        )
        for upper in (90000, 80000):
            params = json.dumps(GRID | {"upper_price": upper})
            await peer.say(
                '{"type":"command","id":"cmd_001","timestamp":1703836800000,'
                f'"action":"grid.start","params":{params}}}'
            )
            assert await peer.text() == (
                '{"type":"response","id":"cmd_001","timestamp":…,"success":false,"error":'
                '{"code":"VALIDATION_ERROR",'
                '"message":"upper_price must be greater than lower_price"}}'
            )


@everywhere
async def test_a_started_grid_is_seen_on_all_of_its_channels(server: Server) -> None:
    """`started`, then orders placed and filled, a trade, pnl, a risk check, a log, and status."""
    async with server.connect(token()) as peer:
        grid_id = await start_grid(peer)
        await peer.event(f"grid.{grid_id}.lifecycle", "started")
        placed = await peer.event(f"grid.{grid_id}.order", "placed")
        assert (placed["level"], placed["side"], placed["price"]) == (0, "buy", 90000)
        filled = await peer.event(f"grid.{grid_id}.order", "filled")
        assert list(filled) == SAMPLES["grid.*.order", "filled"]
        await peer.event(f"grid.{grid_id}.trade", "executed")
        log = await peer.hear("event", channel="system.log", event="info")
        assert log["data"]["source"] == f"grid.{grid_id}"
        assert re.fullmatch(
            r"\[FILL\] BUY @ \d+\.\d{2} \| Position: \d\.\d{6}", log["data"]["message"]
        )
        status = await peer.event(f"grid.{grid_id}.status", "update")
        assert list(status) == SAMPLES["grid.*.status", "update"]
        await peer.event(f"grid.{grid_id}.pnl", "updated")
        await peer.event(f"grid.{grid_id}.risk", "check")


@everywhere
async def test_changed_parameters_replace_the_orders(server: Server) -> None:
    """The answer repeats them; old orders are cancelled and new ones placed."""
    async with server.connect(token()) as peer:
        grid_id = await start_grid(peer)
        await peer.event(f"grid.{grid_id}.status", "update")
        params = {"upper_price": 99000, "grid_count": 3}
        answer = await peer.command("grid.update_params", id=grid_id, params=params)
        assert answer == {"grid_id": grid_id, "params": params}
        await peer.event(f"grid.{grid_id}.order", "cancelled")
        placed = [await peer.event(f"grid.{grid_id}.order", "placed") for _ in range(2)]
        assert [order["price"] for order in placed] == [90000, 93000]
        for bad, where in (
            ({"grid_count": "x"}, "$.params.params.grid_count"),
            ({"lower_price": 99000}, "upper_price must be greater than lower_price"),
        ):
            error = await peer.command("grid.update_params", id=grid_id, params=bad)
            assert error["code"] == "VALIDATION_ERROR"
            assert where in error["message"]


@pytest.mark.parametrize("cancels", [True, False])
@everywhere
async def test_a_stopped_grid_cancels_its_orders_if_told_to(server: Server, cancels: bool) -> None:
    """`cancelled` for each order, or none, then `stopped`; the id is unknown from then on."""
    async with server.connect(token()) as peer:
        grid_id = await start_grid(peer)
        await peer.event(f"grid.{grid_id}.status", "update")
        answer = await peer.command("grid.stop", id=grid_id, cancel_orders=cancels)
        assert answer == {"grid_id": grid_id, "status": "stopping"}
        await peer.event(f"grid.{grid_id}.lifecycle", "stopped")
        own = [m for m in peer.heard if m.get("channel", "").startswith(f"grid.{grid_id}.")]
        last = [m["data"] for m in own if m["event"] == "update"][-1]
        orders = last["active_buy_orders"] + last["active_sell_orders"]
        cancelled = [m["event"] for m in own].count("cancelled")
        assert cancelled == (orders if cancels else 0)
        error = await peer.command("grid.stop", id=grid_id)
        assert error["code"] == "VALIDATION_ERROR"


@everywhere
async def test_a_backtest_runs_to_its_end(server: Server) -> None:
    """`started`, progress every second from 0 to 1, then `completed`."""
    async with server.connect(token()) as peer:
        await peer.subscribe("backtest.*")
        answer = await peer.command("backtest.run")
        name = answer["backtest_id"]
        assert answer == {"backtest_id": name, "status": "starting"}
        await peer.event(f"backtest.{name}.lifecycle", "started")
        progress = [await peer.event(f"backtest.{name}.progress", "update") for _ in range(5)]
        assert [list(each) for each in progress] == [SAMPLES["backtest.*.progress", "update"]] * 5
        assert [each["progress"] for each in progress] == [0, 0.25, 0.5, 0.75, 1]
        await peer.event(f"backtest.{name}.lifecycle", "completed")


@everywhere
async def test_a_backtest_can_be_cancelled(server: Server) -> None:
    """It answers `stopping`; `cancelled` follows."""
    async with server.connect(token()) as peer:
        await peer.subscribe("backtest.*")
        name = (await peer.command("backtest.run", start_date="2020-01-01"))["backtest_id"]
        await peer.event(f"backtest.{name}.progress", "update")
        answer = await peer.command("backtest.cancel", id=name)
        assert answer == {"backtest_id": name, "status": "stopping"}
        await peer.event(f"backtest.{name}.lifecycle", "cancelled")


@everywhere
async def test_a_strategy_starts_and_stops(server: Server) -> None:
    """`started` and `status`, then `stopped`."""
    async with server.connect(token()) as peer:
        await peer.subscribe("strategy.*")
        answer = await peer.command("strategy.start", pair="ETH-USDC")
        name = answer["strategy_id"]
        assert answer == {"strategy_id": name, "status": "starting"}
        await peer.event(f"strategy.{name}.lifecycle", "started")
        await peer.event(f"strategy.{name}.status", "update")
        answer = await peer.command("strategy.stop", id=name)
        assert answer == {"strategy_id": name, "status": "stopping"}
        await peer.event(f"strategy.{name}.lifecycle", "stopped")


@pytest.mark.parametrize(
    "action", ["grid.stop", "grid.update_params", "backtest.cancel", "strategy.stop"]
)
async def test_an_unknown_id_is_a_validation_error(server: Server, action: str) -> None:
    """Whatever is to be done with it; an id of another kind is unknown, too."""
    async with server.connect(token()) as peer:
        for name in ("nobody", "st_ma001" if action != "strategy.stop" else "grid_abc123"):
            error = await peer.command(action, id=name, params={})
            assert error["code"] == "VALIDATION_ERROR"


async def test_the_kill_switch_stops_all_that_trades(kill_server: Server) -> None:
    """`activated` with its reason and what it stopped; grids say so, too; then it can be undone."""
    async with kill_server.connect(token()) as peer, kill_server.connect(token()) as other:
        await other.subscribe("system.kill_switch")
        grid_id = await start_grid(peer)
        await peer.subscribe("strategy.*")
        await peer.event(f"grid.{grid_id}.status", "update")
        reason = "Daily loss limit exceeded"
        answer = await peer.command("system.kill_switch", action="activate", reason=reason)
        assert answer == {"active": True}
        data = await other.event("system.kill_switch", "activated")
        assert list(data) == SAMPLES["system.kill_switch", "activated"]
        assert data["reason"] == reason
        orders = data["affected"].pop("orders_cancelled")
        assert data["affected"] == {"grids_stopped": 3, "strategies_stopped": 1}
        events = [(m.get("channel"), m.get("event")) for m in peer.heard]
        assert events.count((f"grid.{grid_id}.risk", "kill_switch")) == 1
        assert sum(event == "cancelled" for _, event in events) == orders > 0
        for job in (f"grid.{grid_id}", "grid.grid_abc123", "strategy.st_ma001"):
            assert (f"{job}.lifecycle", "stopped") in events

        heard = len(peer.heard)
        refused = (await peer.command("grid.start", **GRID))["grid_id"]
        await peer.event(f"grid.{refused}.risk", "rejected")
        await peer.event(f"grid.{refused}.lifecycle", "error")
        assert not any(m.get("event") == "update" for m in peer.heard[heard:])

        answer = await peer.command("system.kill_switch", action="deactivate", reason="checked")
        assert answer == {"active": False}
        assert await other.event("system.kill_switch", "deactivated") == {"reason": "checked"}
        grid_id = (await peer.command("grid.start", **GRID))["grid_id"]
        await peer.event(f"grid.{grid_id}.lifecycle", "started")
        error = await peer.command("system.kill_switch", action="explode")
        assert error["code"] == "VALIDATION_ERROR"


def test_the_market_feeds_every_channel_of_the_table() -> None:
    """In a few minutes each event of each channel happens, and none that is not in the table.

    Status and progress come every second, health every fifth; payloads have the samples' fields.
    """
    market = zigquant.Market(random.Random(7))
    seen: defaultdict[str, set[str]] = defaultdict(set)

    def pass_seconds(seconds: int) -> None:
        for _ in range(seconds):
            market.tick()
            happened = market.take()
            for channel, event, data in happened:
                seen[general(channel)].add(event)
                fields = SAMPLES.get((general(channel), event))
                assert fields is None or list(data) == fields
            names = [channel for channel, _, _ in happened]
            once = ["grid.grid_abc123.status", "grid.grid_def456.status"]
            once += ["backtest.bt_xyz789.progress", "strategy.st_ma001.status"]
            if not market.is_killed:
                assert [names.count(name) for name in once] == [1, 1, 1, 1]
            assert names.count("system.health") == (market.seconds % 5 == 0)

    pass_seconds(300)
    past = date(1999, 1, 1)
    market.add(lambda name: zigquant.Backtest(name, zigquant.BacktestConfig(start_date=past)), "bt")
    market.find(zigquant.Backtest, "bt_xyz789").is_stopping = True
    market.tick()
    for action in ("activate", "deactivate"):
        market.throw_kill_switch(zigquant.KillSwitch(action, "why"))
    for channel, event, _ in market.take():
        seen[general(channel)].add(event)

    assert dict(seen) == TABLE


@pytest.mark.parametrize("seed", range(5))
def test_the_market_survives_any_order_of_commands(seed: int) -> None:
    """Whatever is started, changed and stopped when: no grid sells what it has not got.

    And all that happens has a JSON form.
    """
    chance = random.Random(seed)
    market = zigquant.Market(random.Random(seed))
    for _ in range(500):
        grids = [job for job in market.jobs if isinstance(job, zigquant.Grid)]
        if len(grids) < 5:
            low = chance.choice([1e-9, 1, 3000, 90_000, 9e8])
            high = low + chance.choice([1e-9, 1, 10_000, 1e8])
            config = zigquant.GridConfig(
                pair=chance.choice(["BTC-USDC", "ETH-USDC", "X"]),
                lower_price=low,
                upper_price=max(high, low * 1.000001),
                grid_count=chance.randint(1, 100),
            )
            market.add(partial(zigquant.Grid, config=config), "grid")
        elif chance.random() < 0.1:
            grid = chance.choice(grids)
            grid.is_stopping = True
        elif chance.random() < 0.3:
            grid = chance.choice(grids)
            params = {"grid_count": chance.randint(1, 100)}
            grid.config, grid.is_planned = zigquant.changed(grid.config, params), False
        market.tick()
        msgspec.json.encode(market.take())
        assert all(grid.lots >= 0 for grid in grids)
        assert all(map(math.isfinite, (figure for g in grids for figure in (g.cost, g.realized))))


def test_what_clients_start_is_bounded() -> None:
    """A client that keeps starting things is refused at some point."""
    market = zigquant.Market(random.Random(7))
    config = zigquant.StrategyConfig()
    for _ in range(zigquant.MAX_JOBS - 4):
        market.add(lambda name: zigquant.Strategy(name, config), "st")
    with pytest.raises(CommandError):
        market.add(lambda name: zigquant.Strategy(name, config), "st")
