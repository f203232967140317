"""ZigQuant protocol v2 on wsbus: grids, backtests and strategies on a made-up market.

::

    python examples/zigquant.py --server websockets --port 8080 --jwt-secret "$SECRET"

Clients connect to ``/ws?token=…``, or send the token in an ``auth`` message. The token is a JWT,
HS256, made with the same secret. Claims: ``sub`` and ``exp``; ``subscribe`` and ``command`` are
lists of patterns, such as ``["grid.*", "system.*"]``; with ``admin`` one may subscribe to all.

What there is to learn here: one bus and one endpoint stand behind three servers (the end of the
file), channels have types, commands are typed functions, and what happens is published without a
thought of who listens. ``wsbus schema zigquant:make_bus``, in this directory, describes all of it;
so does a page, ``/catalogue/``, with ``--server aiohttp`` and ``starlette``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import random
import signal
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, ClassVar, Final, Literal, NotRequired, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct
from typing_extensions import TypedDict

from wsbus import JWT, Bus, CommandError, Endpoint, ErrorCode, HeartbeatPolicy, Limits
from wsbus.broker import Broker
from wsbus.brokers import broker_of
from wsbus.catalogue import Catalogue

# --- what clients send as `params` ------------------------------------------------------------

Price: TypeAlias = Annotated[float, Meta(gt=0, le=1e9)]
Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]


class GridConfig(Struct, frozen=True, kw_only=True):
    """Buy low and sell high on ``grid_count`` steps between two prices."""

    pair: Name
    upper_price: Price
    lower_price: Price
    grid_count: Annotated[int, Meta(ge=1, le=100)]


class BacktestConfig(Struct, frozen=True, kw_only=True):
    """Try a strategy on the past."""

    strategy: Name = "grid"
    pair: Name = "BTC-USDC"
    start_date: date = date(2024, 1, 1)
    end_date: date = date(2024, 12, 31)
    initial_capital: Price = 10_000.0


class StrategyConfig(Struct, frozen=True, kw_only=True):
    """Follow signals."""

    strategy: Name = "dual_ma"
    pair: Name = "BTC-USDC"


class ById(Struct, frozen=True):
    """The command is for this one."""

    id: str


class StopGrid(ById, frozen=True):
    """Stop it; its orders stay on the exchange if they are not to be cancelled."""

    cancel_orders: bool = True


class UpdateGrid(ById, frozen=True):
    """Replace some of its :class:`GridConfig`."""

    params: dict[str, Any]


class KillSwitch(Struct, frozen=True):
    """Stop everything that trades, or allow it again."""

    action: Literal["activate", "deactivate"]
    reason: Annotated[str, Meta(max_length=500)] = ""


# --- what is published ----------------------------------------------------------------------------

Side: TypeAlias = Literal["buy", "sell"]


class Pnl(TypedDict):
    """What has been won and lost: with what was sold, and with what is still owned."""

    realized_pnl: float
    unrealized_pnl: float


class GridStatus(Pnl):
    """How a grid stands."""

    id: str
    current_price: float
    position: float
    active_buy_orders: int
    active_sell_orders: int


class GridPnl(Pnl):
    """What a grid has won and lost."""

    grid_id: str


class GridOrder(TypedDict):
    """An order at one of a grid's prices."""

    grid_id: str
    level: int
    side: Side
    price: float
    amount: float


class FilledOrder(GridOrder):
    """An order that has been filled."""

    position_after: float


class Trade(GridOrder):
    """What a filled order has cost."""

    fee: float


class RiskCheck(TypedDict):
    """What a grid has at stake."""

    grid_id: str
    position: float
    exposure: float
    passed: bool


class RiskRejected(TypedDict):
    """An order that was not placed, or a grid that cannot start."""

    grid_id: str
    reason: str
    level: NotRequired[int]
    side: NotRequired[Side]
    price: NotRequired[float]
    amount: NotRequired[float]


class GridKilled(TypedDict):
    """The kill switch has stopped a grid."""

    grid_id: str
    reason: str


class Lifecycle(TypedDict):
    """A job has started or ended."""

    id: str
    message: NotRequired[str]


class BacktestFacts(TypedDict):
    """What a backtest has come to."""

    trades_count: int
    current_equity: float


class BacktestCompleted(BacktestFacts):
    """A backtest has come to its end."""

    id: str


class BacktestProgress(BacktestFacts):
    """How far a backtest is: from 0 to 1."""

    id: str
    progress: float
    current_date: date


class StrategyStatus(TypedDict):
    """How a strategy stands."""

    id: str
    pair: str
    current_price: float
    position: float
    pnl: float


class Signal(TypedDict):
    """A strategy buys or sells."""

    strategy_id: str
    side: Side
    price: float


class Health(TypedDict):
    """How the system is; ``uptime`` in seconds, and how many jobs run."""

    status: Literal["ok", "degraded"]
    uptime: int
    grids: int
    strategys: int
    backtests: int


class LogLine(TypedDict):
    """A line of the log."""

    level: Literal["debug", "info", "warn", "error"]
    source: str
    message: str


class Affected(TypedDict):
    """What the kill switch has stopped."""

    grids_stopped: int
    strategies_stopped: int
    orders_cancelled: int


class Deactivated(TypedDict):
    """Trading is allowed again."""

    reason: str


class Activated(Deactivated):
    """Trading has been stopped."""

    affected: Affected


class ExchangeNews(TypedDict):
    """What the link to an exchange does."""

    exchange: str
    message: str


def declare_channels(bus: Bus) -> None:
    """Declare what is published where; what does not fit is refused, whoever publishes it."""
    bus.channel("grid.{id}.status", GridStatus, events=["update"])
    orders = {"placed": GridOrder, "filled": FilledOrder, "cancelled": GridOrder}
    bus.channel("grid.{id}.order", events=orders)
    bus.channel("grid.{id}.trade", Trade, events=["executed"])
    bus.channel("grid.{id}.pnl", GridPnl, events=["updated"])
    risks = {"check": RiskCheck, "rejected": RiskRejected, "kill_switch": GridKilled}
    bus.channel("grid.{id}.risk", events=risks)
    bus.channel("grid.{id}.lifecycle", Lifecycle, events=["started", "stopped", "error"])
    bus.channel("backtest.{id}.progress", BacktestProgress, events=["update"])
    ends = dict.fromkeys(["started", "cancelled", "error"], Lifecycle)
    bus.channel("backtest.{id}.lifecycle", events={**ends, "completed": BacktestCompleted})
    bus.channel("strategy.{id}.status", StrategyStatus, events=["update"])
    bus.channel("strategy.{id}.signal", Signal, events=["generated"])
    bus.channel("strategy.{id}.lifecycle", Lifecycle, events=["started", "stopped", "error"])
    bus.channel("system.health", Health, events=["update"])
    bus.channel("system.log", LogLine, events=["debug", "info", "warn", "error"])
    switch = {"activated": Activated, "deactivated": Deactivated}
    bus.channel("system.kill_switch", events=switch)
    bus.channel("system.exchange", ExchangeNews, events=["connected", "disconnected", "error"])


# --- what runs, second by second ----------------------------------------------------------------

KNOWN_PRICES: Final = {"BTC-USDC": 95_000.0, "ETH-USDC": 3_400.0}
LOT: Final = 0.001
MAX_JOBS: Final = 500
"""What clients can start must be bounded."""

Happening: TypeAlias = tuple[str, str, dict[str, Any]]
"""A channel, an event, and its data; of a job, the channel is the part after its id."""
J = TypeVar("J", bound="Job")


class Job(ABC):
    """What clients start and stop: it says what happens to it, second by second.

    Args:
        name: Its id.
    """

    kind: ClassVar[str]
    last_event: ClassVar[str] = "stopped"

    def __init__(self, name: str) -> None:
        self.id: Final = name
        self.is_started = self.is_stopping = self.is_over = False

    def second(self, market: Market) -> Iterator[Happening]:
        """Let a second pass."""
        if self.is_stopping:
            yield from self.end(self.last_event)
        elif self.is_started:
            yield from self.work(market)
        elif trouble := self.trouble(market):
            yield from self.end("error", message=trouble)
        else:
            self.is_started = True
            yield "lifecycle", "started", {"id": self.id}
            yield from self.work(market)

    def end(self, event: str, **data: Any) -> Iterator[Happening]:
        """Come to an end."""
        self.is_over = True
        yield "lifecycle", event, {"id": self.id, **data}
        level = "error" if event == "error" else "info"
        yield "log", level, {"message": data.get("message", event)}

    def trouble(self, market: Market) -> str:
        """Return why it cannot start, if so."""
        return "the kill switch is active" if market.is_killed else ""

    @abstractmethod
    def work(self, market: Market) -> Iterator[Happening]:
        """Do what it does."""


@dataclass(slots=True)
class Order:
    """Waits at one of a grid's prices."""

    side: Side
    lots: int = 1


class Grid(Job):
    """Buys below the price and sells above it; levels count from 0 at the lower price."""

    kind = "grid"

    def __init__(self, name: str, config: GridConfig) -> None:
        super().__init__(name)
        self.config = config
        self.is_planned = False
        self.leaves_orders = False
        self.orders: dict[int, Order] = {}
        self.wanted: dict[int, Order] = {}
        self.lots, self.cost, self.realized = 0, 0.0, 0.0

    def work(self, market: Market) -> Iterator[Happening]:
        """Trade, and report."""
        middle = (self.config.lower_price + self.config.upper_price) / 2
        price = market.price(self.config.pair, middle)
        if not self.is_planned:
            yield from self.cancel_orders()
            self.plan(price)
            self.is_planned = not market.is_wild  # else what is planned now is old in a second
        if market.is_online:
            yield from self.place_orders(market)
            yield from self.fill_orders(price)
        position, buys = self.position, sum(o.side == "buy" for o in self.orders.values())
        status = {"id": self.id, "current_price": price, "position": position}
        status |= {"active_buy_orders": buys, "active_sell_orders": len(self.orders) - buys}
        unrealized = round((price * self.lots - self.cost) * LOT, 2)
        pnl = {"realized_pnl": round(self.realized, 2), "unrealized_pnl": unrealized}
        yield "status", "update", status | pnl
        yield "pnl", "updated", {"grid_id": self.id} | pnl
        risk = {"position": position, "exposure": round(position * price, 2), "passed": True}
        yield "risk", "check", {"grid_id": self.id} | risk

    def plan(self, price: float) -> None:
        """Want buys below the price, sells above it, and at once the lots that these need."""
        levels = range(self.config.grid_count + 1)
        above = [level for level in levels if self.price_of(level) >= price]
        self.wanted = {level: Order("buy") for level in levels if level not in above}
        self.wanted |= {level: Order("sell") for level in above[1:]}
        missing = len(above[1:]) - self.lots
        if missing > 0:
            self.wanted[above[0]] = Order("buy", missing)

    def place_orders(self, market: Market) -> Iterator[Happening]:
        """Place what is wanted; in a wild market it is tried again in the next second."""
        for level, order in sorted(self.wanted.items()):
            if market.is_wild:
                why = {"reason": "the price moves too fast"}
                yield "risk", "rejected", self.told(level, order) | why
            else:
                self.orders[level] = self.wanted.pop(level)
                yield "order", "placed", self.told(level, order)

    def fill_orders(self, price: float) -> Iterator[Happening]:
        """Fill the orders that the price has reached, and want their opposites."""
        for level, order in sorted(self.orders.items()):
            at, is_buy = self.price_of(level), order.side == "buy"
            if (price > at) if is_buy else (price < at or not self.lots):
                continue
            del self.orders[level]
            if is_buy:
                self.lots += order.lots
                self.cost += at * order.lots
            else:
                mean = self.cost / self.lots
                self.lots -= 1
                self.cost -= mean
                self.realized += (at - mean) * LOT
            beside = level + 1 if is_buy else level - 1
            if beside in range(self.config.grid_count + 1) and beside not in self.orders:
                self.wanted[beside] = Order("sell" if is_buy else "buy")
            told = self.told(level, order)
            yield "order", "filled", told | {"position_after": self.position}
            yield "trade", "executed", told | {"fee": round(at * order.lots * LOT / 1000, 4)}
            text = f"[FILL] {order.side.upper()} @ {at:.2f} | Position: {self.position:.6f}"
            yield "log", "info", {"message": text}

    def end(self, event: str, **data: Any) -> Iterator[Happening]:
        """Cancel what is to be cancelled, and end."""
        if event == "error":
            yield "risk", "rejected", {"grid_id": self.id, "reason": data["message"]}
        if not self.leaves_orders:
            yield from self.cancel_orders()
        yield from super().end(event, **data)

    def cancel_orders(self) -> Iterator[Happening]:
        """Cancel all orders."""
        for level, order in sorted(self.orders.items()):
            yield "order", "cancelled", self.told(level, order)
        self.orders.clear()

    def price_of(self, level: int) -> float:
        """Return the price of a level."""
        low, high = self.config.lower_price, self.config.upper_price
        return round(low + (high - low) * level / self.config.grid_count, 2)

    @property
    def position(self) -> float:
        """What it owns."""
        return round(self.lots * LOT, 6)

    def told(self, level: int, order: Order) -> dict[str, Any]:
        """Return what is told about an order."""
        told = {"grid_id": self.id, "level": level, "side": order.side}
        return told | {"price": self.price_of(level), "amount": round(order.lots * LOT, 6)}


class Backtest(Job):
    """Runs through the past in a few seconds; the sample that is always there does so for ever."""

    kind = "backtest"
    last_event = "cancelled"

    def __init__(
        self, name: str, config: BacktestConfig, seconds: int = 4, *, repeats: bool = False
    ) -> None:
        super().__init__(name)
        self.config, self.seconds, self.repeats = config, seconds, repeats
        self.done, self.trades, self.equity = 0, 0, config.initial_capital

    def trouble(self, market: Market) -> str:
        """Return why it cannot start; it trades nothing, so that no switch keeps it from it."""
        return "there are no prices before 2010" if self.config.start_date.year < 2010 else ""

    def work(self, market: Market) -> Iterator[Happening]:
        """Run on."""
        if self.done:
            self.trades += market.chance.randint(5, 20)
            self.equity *= 1 + market.chance.gauss(0.004, 0.01)
        share = self.done / self.seconds
        today = self.config.start_date + (self.config.end_date - self.config.start_date) * share
        facts = {"trades_count": self.trades, "current_equity": round(self.equity, 2)}
        progress = {"id": self.id, "progress": round(share, 4), "current_date": today}
        yield "progress", "update", progress | facts
        self.done += 1
        if share == 1:
            yield from self.end("completed", **facts)
            if self.repeats:
                self.is_started = self.is_over = False
                self.done, self.trades, self.equity = 0, 0, self.config.initial_capital


class Strategy(Job):
    """Buys and sells by signals."""

    kind = "strategy"

    def __init__(self, name: str, config: StrategyConfig) -> None:
        super().__init__(name)
        self.config, self.position, self.pnl = config, 0.0, 0.0

    def work(self, market: Market) -> Iterator[Happening]:
        """Follow a signal now and then, and report."""
        price = market.price(self.config.pair, 100.0)
        self.pnl += self.position * price * market.move
        if market.is_online and market.chance.random() < 0.3:
            side = "sell" if self.position else "buy"
            self.position = LOT - self.position
            yield "signal", "generated", {"strategy_id": self.id, "side": side, "price": price}
        status = {"id": self.id, "pair": self.config.pair, "current_price": price}
        yield "status", "update", status | {"position": self.position, "pnl": round(self.pnl, 2)}


class Market:
    """A made-up exchange and the jobs that run on it.

    It knows no clock, no socket and no bus: :meth:`tick` is called once a second, and what
    happens is collected for whoever publishes it.

    Args:
        chance: Moves the prices.
    """

    def __init__(self, chance: random.Random) -> None:
        self.chance: Final = chance
        self.is_online, self.is_killed = True, False
        self.seconds, self.factor, self.move = 0, 1.0, 0.0
        bitcoin = GridConfig(
            pair="BTC-USDC", upper_price=100_000, lower_price=90_000, grid_count=20
        )
        ether = GridConfig(pair="ETH-USDC", upper_price=3_600, lower_price=3_200, grid_count=25)
        self.jobs: list[Job] = [
            Grid("grid_abc123", bitcoin),
            Grid("grid_def456", ether),
            Backtest("bt_xyz789", BacktestConfig(), 30, repeats=True),
            Strategy("st_ma001", StrategyConfig()),
        ]
        self._happened: list[Happening] = []

    @property
    def is_wild(self) -> bool:
        """Whether prices have moved by more than 1 % in this second."""
        return abs(self.move) > 0.01

    def price(self, pair: str, otherwise: float) -> float:
        """Return what a pair costs now; all prices move together."""
        return round(KNOWN_PRICES.get(pair, otherwise) * self.factor, 2)

    def take(self) -> list[Happening]:
        """Return what has happened since the last call."""
        happened, self._happened = self._happened, []
        return happened

    def add(self, make: Callable[[str], Job], prefix: str) -> str:
        """Add a job, to be started in the next second; return its id."""
        if len(self.jobs) >= MAX_JOBS:
            raise CommandError(ErrorCode.VALIDATION_ERROR, f"at most {MAX_JOBS} jobs may run")
        job = make(f"{prefix}_{self.chance.getrandbits(48):012x}")
        self.jobs.append(job)
        return job.id

    def find(self, kind: type[J], name: str) -> J:
        """Return the job of this id."""
        for job in self.jobs:
            if isinstance(job, kind) and job.id == name:
                return job
        raise CommandError(
            ErrorCode.VALIDATION_ERROR, "there is none of this id - at `$.params.id`"
        )

    def tick(self) -> None:
        """Let a second pass."""
        self.seconds += 1
        self._run_exchange()
        pull = (1 - self.factor) * 0.1
        self.move = pull + self.chance.gauss(0, 0.004) if self.is_online else 0.0
        self.factor += self.move
        for job in self.jobs:
            self._note(job, job.second(self))
        self.jobs = [job for job in self.jobs if not job.is_over]
        if self.seconds % 5 == 0:
            kinds = (Grid, Strategy, Backtest)
            running = {f"{k.kind}s": sum(isinstance(j, k) for j in self.jobs) for k in kinds}
            status = "ok" if self.is_online and not self.is_killed else "degraded"
            health = {"status": status, "uptime": self.seconds} | running
            self._happened.append(("system.health", "update", health))
            self._log("debug", "system.market", f"prices are at {self.factor:.2%}")

    def throw_kill_switch(self, switch: KillSwitch) -> None:
        """Stop everything that trades, at once; or allow it again."""
        self.is_killed, data = switch.action == "activate", {"reason": switch.reason}
        channel = "system.kill_switch"
        if not self.is_killed:
            self._happened.append((channel, "deactivated", data))
            return
        grids = [job for job in self.jobs if isinstance(job, Grid)]
        strategies = [job for job in self.jobs if isinstance(job, Strategy)]
        affected = {"grids_stopped": len(grids), "strategies_stopped": len(strategies)}
        affected |= {"orders_cancelled": sum(len(grid.orders) for grid in grids)}
        self._happened.append((channel, "activated", data | {"affected": affected}))
        self._log("warn", channel, f"trading is stopped: {switch.reason}")
        for grid in grids:
            grid.leaves_orders = False
            self._note(grid, [("risk", "kill_switch", {"grid_id": grid.id} | data)])
        for job in (*grids, *strategies):
            self._note(job, job.end("stopped"))
        self.jobs = [job for job in self.jobs if not job.is_over]

    def _run_exchange(self) -> None:
        """Once a minute have an error, and later be offline for three seconds."""
        match self.seconds % 60:
            case 1 | 33:
                event, message = "connected", "connected"
                self.is_online = True
            case 15:
                event, message = "error", "an order timed out"
            case 30:
                event, message = "disconnected", "disconnected"
                self.is_online = False
                for job in self.jobs:
                    trouble = {"id": job.id, "message": "the exchange is disconnected"}
                    if not isinstance(job, Backtest):
                        self._note(job, [("lifecycle", "error", trouble)])
            case _:
                return
        data = {"exchange": "paper", "message": message}
        self._happened.append(("system.exchange", event, data))
        level = {"connected": "info", "error": "error", "disconnected": "warn"}[event]
        self._log(level, "system.exchange", message)

    def _note(self, job: Job, happenings: Iterable[Happening]) -> None:
        for channel, event, data in happenings:
            if channel == "log":
                self._log(event, f"{job.kind}.{job.id}", data["message"])
            else:
                self._happened.append((f"{job.kind}.{job.id}.{channel}", event, data))

    def _log(self, level: str, source: str, message: str) -> None:
        data = {"level": level, "source": source, "message": message}
        self._happened.append(("system.log", level, data))


# --- the bus ------------------------------------------------------------------------------------


def make_bus(broker: Broker | None = None, market: Market | None = None) -> Bus:
    """Return a bus with its channels, and with commands to a market."""
    bus = Bus(broker=broker)
    declare_channels(bus)
    add_commands(bus, market or Market(random.Random()))
    return bus


def make_endpoint(bus: Bus, secret: str) -> Endpoint:
    """Return the endpoint, on the terms of the protocol's page."""
    return bus.endpoint(
        protocols=["zigquant-v2", "wsbus.v1"],
        authenticator=JWT(secret),
        query_token="token",  # noqa: S106  # opted in: see `keep_tokens_out_of_logs`
        origins="*",  # no cookies are involved
        limits=Limits(
            messages_per_second=100, commands_per_second=10, max_subscriptions=50, max_names=1000
        ),
        heartbeat=HeartbeatPolicy(interval=30, timeout=60),
    )


def add_commands(bus: Bus, market: Market) -> None:
    """Let clients command the market; the types say what `params` must be."""

    @bus.command("grid.start")
    def start_grid(config: GridConfig) -> dict[str, str]:
        check(config)
        grid_id = market.add(lambda name: Grid(name, config), "grid")
        return {"grid_id": grid_id, "status": "starting"}

    @bus.command("grid.stop")
    def stop_grid(order: StopGrid) -> dict[str, str]:
        grid = market.find(Grid, order.id)
        grid.is_stopping, grid.leaves_orders = True, not order.cancel_orders
        return {"grid_id": grid.id, "status": "stopping"}

    @bus.command("grid.update_params")
    def update_grid(change: UpdateGrid) -> dict[str, Any]:
        grid = market.find(Grid, change.id)
        grid.config, grid.is_planned = changed(grid.config, change.params), False
        return {"grid_id": grid.id, "params": change.params}

    @bus.command("backtest.run")
    def run_backtest(config: BacktestConfig) -> dict[str, str]:
        if config.end_date <= config.start_date:
            raise CommandError(ErrorCode.VALIDATION_ERROR, "end_date must be after start_date")
        backtest_id = market.add(lambda name: Backtest(name, config), "bt")
        return {"backtest_id": backtest_id, "status": "starting"}

    @bus.command("backtest.cancel")
    def cancel_backtest(which: ById) -> dict[str, str]:
        market.find(Backtest, which.id).is_stopping = True
        return {"backtest_id": which.id, "status": "stopping"}

    @bus.command("strategy.start")
    def start_strategy(config: StrategyConfig) -> dict[str, str]:
        strategy_id = market.add(lambda name: Strategy(name, config), "st")
        return {"strategy_id": strategy_id, "status": "starting"}

    @bus.command("strategy.stop")
    def stop_strategy(which: ById) -> dict[str, str]:
        market.find(Strategy, which.id).is_stopping = True
        return {"strategy_id": which.id, "status": "stopping"}

    @bus.command("system.kill_switch")
    async def throw_kill_switch(switch: KillSwitch) -> dict[str, bool]:
        market.throw_kill_switch(switch)
        await publish_happenings(bus, market)  # this does not wait for the next second
        return {"active": market.is_killed}


def check(config: GridConfig) -> GridConfig:
    """Refuse what the types alone cannot."""
    if config.upper_price <= config.lower_price:
        message = "upper_price must be greater than lower_price"
        raise CommandError(ErrorCode.VALIDATION_ERROR, message)
    return config


def changed(config: GridConfig, params: dict[str, Any]) -> GridConfig:
    """Return the configuration with some parameters replaced."""
    try:
        return check(msgspec.convert(msgspec.structs.asdict(config) | params, GridConfig))
    except msgspec.ValidationError as exc:
        where = str(exc).replace("`$", "`$.params.params")
        raise CommandError(ErrorCode.VALIDATION_ERROR, where) from None


async def publish_happenings(bus: Bus, market: Market) -> None:
    """Publish what has happened."""
    for channel, event, data in market.take():
        await bus.publish(channel, data, event=event)


async def run_market(bus: Bus, market: Market) -> None:
    """Let a second pass every second; the only task of the simulation."""
    clock = asyncio.get_running_loop().time
    due = clock()
    while True:
        market.tick()
        await publish_happenings(bus, market)
        due = max(due + 1, clock())
        await asyncio.sleep(due - clock())


# --- three servers ------------------------------------------------------------------------------


@asynccontextmanager
async def websockets_server(
    bus: Bus, endpoint: Endpoint, sock: socket.socket
) -> AsyncIterator[None]:
    """Serve with websockets, which has no pages."""
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

    from wsbus.adapters.websockets import serve

    def only_ws(connection: ServerConnection, request: Request) -> Response | None:
        path = request.path.partition("?")[0]
        return None if path == "/ws" else connection.respond(404, "the bus is at /ws\n")

    async with serve(endpoint, sock=sock, process_request=only_ws):
        yield


@asynccontextmanager
async def aiohttp_server(bus: Bus, endpoint: Endpoint, sock: socket.socket) -> AsyncIterator[None]:
    """Serve with aiohttp; its access log would hold the query."""
    from aiohttp import web

    from wsbus.adapters.aiohttp import add_catalogue_routes, setup

    app = web.Application()
    setup(app, "/ws", endpoint)
    add_catalogue_routes(app, Catalogue(bus, title="ZigQuant"))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, sock).start()
    try:
        yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def starlette_server(
    bus: Bus, endpoint: Endpoint, sock: socket.socket
) -> AsyncIterator[None]:
    """Serve with Starlette on uvicorn, which writes the query, and broken messages, to its log."""
    from starlette.applications import Starlette

    from wsbus.adapters.starlette import catalogue_routes, websocket_route
    from wsbus.adapters.uvicorn import serving

    pages = catalogue_routes(Catalogue(bus, title="ZigQuant"))
    app = Starlette(routes=[websocket_route("/ws", endpoint), *pages])
    async with serving(app, endpoint, sock, lifespan="off", log_level=None):
        yield


Server: TypeAlias = Callable[[Bus, Endpoint, socket.socket], AbstractAsyncContextManager[None]]
SERVERS: Final[dict[str, Server]] = {
    "websockets": websockets_server,
    "aiohttp": aiohttp_server,
    "starlette": starlette_server,
}


def keep_tokens_out_of_logs() -> None:
    """Silence the loggers that write requests, whose query may hold a token, at DEBUG."""
    for name in ("websockets", "uvicorn", "uvicorn.error", "aiohttp"):
        logging.getLogger(name).setLevel(logging.INFO)


async def serve(options: argparse.Namespace) -> None:
    """Serve until a signal comes."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    market = Market(random.Random(options.seed))
    bus = make_bus(options.broker, market)
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    sock = socket.create_server((options.host, options.port), family=family, backlog=1000)
    endpoint = make_endpoint(bus, options.jwt_secret)
    async with bus, SERVERS[options.server](bus, endpoint, sock):
        simulation = asyncio.create_task(run_market(bus, market))
        simulation.add_done_callback(lambda _: stop.set())
        host, port = sock.getsockname()[:2]
        print(f"ws://{f'[{host}]' if ':' in host else host}:{port}/ws", flush=True)
        await stop.wait()
        simulation.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await simulation


def main() -> None:
    """Read the options, and serve."""
    parser = argparse.ArgumentParser(description="ZigQuant protocol v2 on a made-up market.")
    parser.add_argument("--server", choices=SERVERS, default="websockets")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080, help="0 chooses a free one")
    parser.add_argument("--jwt-secret", required=True, help="signs the tokens, HS256")
    parser.add_argument("--log-level", default="INFO")
    parser.add_argument("--seed", type=int, help="for the same prices each time")
    parser.add_argument("--broker", type=broker_of, metavar="URL", help="joins several processes")
    options = parser.parse_args()
    logging.basicConfig(level=options.log_level.upper())
    keep_tokens_out_of_logs()
    asyncio.run(serve(options))


if __name__ == "__main__":
    main()
