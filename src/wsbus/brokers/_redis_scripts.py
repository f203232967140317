"""The scripts that keep history on Redis and Valkey.

All keys of a store begin with the names of its prefix, so that they are of one slot. Every script
names the keys that it uses:

===================  =======  ==================================================================
key                  type     content
===================  =======  ==================================================================
``…history``         hash     ``epoch``, ``offset`` and ``tag`` of the last turn; ``floor``: the
                              greatest offset of a channel that was forgotten; ``at`` and
                              ``since``: when a period began, and the offset then
``…channels``        zset     the last offset of each channel
``…turns``           zset     the last offset of each turn, by its tag
``…h:<channel>``     list     what the channel keeps
``…k:<key>``         string   the position that an idempotency key was given
===================  =======  ==================================================================

**Entries.** What a list keeps is the very item that is published (:class:`.Kept`), with two more
fields, which readers of items skip: when its time is over, in milliseconds of the server's clock,
and how many entries the channel keeps. Everything after the node has a fixed size, so that a script
reads it without decoding the rest. What is too old, or too much, is not read. A list is shortened
once it is an eighth too long, and expires as a whole some seconds after its newest entry.

**Epoch.** A store without its hash, or without one of its indexes (they were evicted, or someone
removed them), is a new one: it gets the epoch that the script was given, and forgets the indexes. A
list of a channel that the index does not know is not read, and is removed by the next publication.

**Tags.** A replica that lacks the end of the data may become the primary, and give offsets away a
second time. So each turn has a random tag, and the last :data:`MAX_TURNS` turns are remembered by
it. A position is known if its offset is within the turn of its tag. One that is older than
all of them is taken as it is: by then a node has noticed what was lost, and the epoch is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1
from typing import Final

from ..core.history import IDEMPOTENCY_SECONDS

__all__ = ["HEAD", "MAX_CHANNELS", "READ", "STORE", "TAIL_BYTES", "LuaScript"]

MAX_CHANNELS: Final = 100_000
"""Channels that are remembered."""

MAX_TURNS: Final = 20_000
"""Turns that are remembered."""

TAIL_BYTES: Final = 50
"""The end of each entry: epoch, offset, previous offset, tag, the end of its time, and how many
entries its channel keeps."""

_PERIOD: Final = 10.0
"""Seconds within which the time of a list is not set again."""


class LuaScript:
    """A script, and the name under which a server has it.

    Args:
        text: The script. It finds the keys of the state first, and what is asked in one argument.
    """

    def __init__(self, text: str) -> None:
        source = text.encode()
        self.load: Final = (b"SCRIPT", b"LOAD", source)
        """The command that loads it."""
        self._name: Final = sha1(source, usedforsecurity=False).hexdigest().encode()

    def call(self, keys: Sequence[bytes], plan: bytes) -> tuple[bytes, ...]:
        """Return the command that runs it."""
        return b"EVALSHA", self._name, b"%d" % len(keys), *keys, plan


_STATE: Final = f"""
local call, pack, unpacked = redis.call, struct.pack, struct.unpack
local floor_of, max, min, sub = math.floor, math.max, math.min, string.sub
local STATE, CHANNELS, TURNS = KEYS[1], KEYS[2], KEYS[3]
local MAX_TURNS, MAX_CHANNELS, MANY = {MAX_TURNS}, {MAX_CHANNELS}, 1000
local PERIOD = {round(_PERIOD * 1000)}
local plan = cmsgpack.unpack(ARGV[1])

local state = call('HMGET', STATE, 'epoch', 'offset', 'floor', 'tag', 'at', 'since')
local epoch, offset, floor, tag = state[1], tonumber(state[2]), tonumber(state[3]), state[4]

local function renew()
  epoch, offset, floor, tag = plan[1], 0, 0, ''
  call('DEL', CHANNELS, TURNS)
  call('HSET', STATE, 'epoch', epoch, 'offset', 0, 'floor', 0, 'tag', '', 'at', 0, 'since', 0)
end

if not (epoch and #epoch == 8 and offset and floor and tag)
    or (offset > 0 and call('EXISTS', CHANNELS, TURNS) < 2) then
  renew()
end

local function is_known(at, mark)
  if at > offset then return false end
  if mark == '' or at <= 0 then return true end
  local last = tonumber(call('ZSCORE', TURNS, mark))
  if last then return at <= last end
  if call('ZCARD', TURNS) < MAX_TURNS then return false end
  return at <= tonumber(call('ZRANGE', TURNS, 0, 0, 'WITHSCORES')[2])
end

local function milliseconds()
  local time = call('TIME')
  return time[1] * 1000 + floor_of(time[2] / 1000)
end

local function last_offsets(names)
  local last = {{}}
  for from = 1, #names, MANY do
    local to = min(from + MANY - 1, #names)
    for i, score in ipairs(call('ZMSCORE', CHANNELS, unpack(names, from, to))) do
      last[from + i - 1] = tonumber(score) or 0
    end
  end
  return last
end
"""

HEAD: Final = LuaScript(
    _STATE
    + """
local seen = plan[2]
if seen and seen[1] == epoch and not is_known(seen[2], seen[3]) then renew() end
return {epoch, offset, tag}
"""
)
"""Tells where the store stands.

Plan: a new epoch, and the greatest position that was seen. A store of that epoch that does not know
this position gets the new one.
"""

STORE: Final = LuaScript(
    _STATE
    + f"""
local prefix, mark, head, node = plan[2], plan[3], plan[4], plan[5]
local sizes, times, of, items, keyed, feeds, messages, others = unpack(plan, 6, 13)
local start, repeated = offset, {{}}

local function joined(entries, from, to)
  local count = 0
  for i = from, to do count = count + (entries[i] == '' and 0 or 1) end
  if count == 0 then return '' end
  return head .. pack('>BI4', 221, count) .. table.concat(entries, '', from, to)
end

if #items > 0 then
  local now, names, channels, cut = milliseconds(), {{}}, #sizes, #prefix + 3
  for c = 1, channels do names[c] = sub(KEYS[3 + c], cut) end
  local last = last_offsets(names)
  local lists, order, tails, entries, before = {{}}, {{}}, {{}}, {{}}, {{}}
  local middle = node .. '\\168' .. epoch
  for i, item in ipairs(items) do
    local c, key = of[i], keyed and keyed[i] > 0 and KEYS[3 + channels + keyed[i]]
    local given = key and redis.pcall('GET', key)
    if type(given) == 'string' and string.find(given, '^%S+ %S+ %d+$') then
      repeated[#repeated + 1] = i - 1
      repeated[#repeated + 1] = given
      entries[i] = ''
    else
      offset = offset + 1
      local list = lists[c]
      if not list then
        list = {{}}
        lists[c], order[#order + 1], before[c] = list, c, last[c]
        tails[c] = '\\168' .. mark .. pack('>BI8BI4', 207, now + times[c], 206, sizes[c])
      end
      local entry = '\\153\\161k' .. item .. middle
        .. pack('>BI8BI8', 207, offset, 207, last[c]) .. tails[c]
      list[#list + 1], entries[i], last[c] = entry, entry, offset
      if key then
        local position = epoch .. ' ' .. mark .. ' ' .. string.format('%d', offset)
        call('SET', key, position, 'PX', {round(IDEMPOTENCY_SECONDS * 1000)})
      end
    end
  end

  if offset > start then
    local at, since = tonumber(state[5]) or 0, tonumber(state[6]) or 0
    if now < at or now > at + PERIOD or since > start then at, since = now, start end
    call('HSET', STATE, 'offset', offset, 'tag', mark, 'at', at, 'since', since)
    call('ZADD', TURNS, offset, mark)
    if floor_of(offset / 64) > floor_of(start / 64) then
      call('ZREMRANGEBYRANK', TURNS, 0, -MAX_TURNS - 1)
    end
    local scores, added = {{}}, 0
    for i, c in ipairs(order) do
      scores[2 * i - 1], scores[2 * i] = string.format('%d', last[c]), names[c]
    end
    for from = 1, #scores, MANY do
      added = added + call('ZADD', CHANNELS, unpack(scores, from, min(from + MANY - 1, #scores)))
    end
    local excess = added > 0 and call('ZCARD', CHANNELS) - MAX_CHANNELS or 0
    if excess > 0 then
      local forgotten = call('ZRANGE', CHANNELS, excess - 1, excess - 1, 'WITHSCORES')
      call('HSET', STATE, 'floor', forgotten[2])
      call('ZREMRANGEBYRANK', CHANNELS, 0, excess - 1)
    end
    for _, c in ipairs(order) do
      local key, list, size = KEYS[3 + c], lists[c], 0
      if before[c] == 0 then call('DEL', key) end
      for from = 1, #list, MANY do
        size = redis.pcall('RPUSH', key, unpack(list, from, min(from + MANY - 1, #list)))
        if type(size) == 'table' then
          call('DEL', key)
          size = call('RPUSH', key, unpack(list, from, min(from + MANY - 1, #list)))
        end
      end
      if size > sizes[c] + floor_of(sizes[c] / 8) then call('LPOP', key, size - sizes[c]) end
      if before[c] <= since or size <= #list then call('PEXPIRE', key, times[c] + PERIOD) end
    end
    for f = 1, #feeds do feeds[f] = prefix .. feeds[f] end
    local followers = {{}}
    for from = 1, #feeds, MANY do
      local counts = call('PUBSUB', 'NUMSUB', unpack(feeds, from, min(from + MANY - 1, #feeds)))
      for i = 2, #counts, 2 do followers[from + i / 2 - 1] = counts[i] end
    end
    for _, message in ipairs(messages) do
      local text
      for _, f in ipairs(message[1]) do
        if followers[f] > 0 then
          text = text or joined(entries, message[2], message[3])
          if text ~= '' then call('PUBLISH', feeds[f], text) end
        end
      end
    end
  end
end

for i = 1, #others, 2 do call('PUBLISH', prefix .. others[i], others[i + 1]) end
return {{epoch, start, repeated}}
"""
)
"""Numbers, keeps and publishes a turn.

Keys: also the lists of its channels, and the idempotency keys. Plan: a new epoch, the prefix of all
names, the tag of the turn, the start of its envelopes, its node as MessagePack; how many entries
each channel keeps, and for how many milliseconds; for each item the number of its channel, the item
itself, and the number of its idempotency key (0: none); the feeds; for each message those that get
it, by number, its first item and its last one; and feeds with further messages for them.

Reply: the epoch, the offset before the turn, and for each repetition its index and position.
"""

READ: Final = LuaScript(
    _STATE
    + """
local after, before, limit, newest, from_end = unpack(plan, 2, 6)
local cut, within, since, is_last = unpack(plan, 7, 10)
local start, stop, is_complete, now = 0, offset + 1, true, milliseconds()
if after then
  is_complete = after[1] == epoch and is_known(after[2], after[3])
  start = is_complete and after[2] or 0
end
if before and before[1] == epoch then stop = before[2] end
if is_last then stop = min(stop, since + 1) end

local names = {}
for c = 1, #KEYS - 3 do names[c] = sub(KEYS[3 + c], cut) end
local last, found, cutoff = last_offsets(names), {}, 0

-- Returns the offset of an entry, the one before it, when its time is over, and the list's size.
local function opened(text)
  if not text or #text < 50 then return end
  local a, own, b, at, c, previous, d, _, e, till, f, size =
    unpacked('>Bc8BI8BI8Bc8BI8BI4', text, #text - 49)
  if own == epoch and a == 168 and b == 207 and c == 207 and d == 168 and e == 207 and f == 206
      and at <= offset then
    return at, previous, till, size
  end
end

-- Returns the index of the oldest entry that is kept.
local function oldest(key, count)
  for i = count - 1, 0, -1 do
    local at, _, _, size = opened(call('LINDEX', key, i))
    if at then return max(0, count - size) end
  end
  return count
end

-- Finds the first index in [low, high) whose entry is not early; entries come in order.
local function first_index(key, low, high, is_early)
  while low < high do
    local middle = floor_of((low + high) / 2)
    local i, at, previous, till = middle
    repeat
      at, previous, till = opened(call('LINDEX', key, i))
      i = i + 1
    until at or i >= high
    if at and is_early(at, till) then low = i else high = middle end
  end
  return low
end

-- Returns so many entries of [low, high), the first or the last ones, in any order.
local function taken(key, low, high, count, is_last)
  local some = {}
  while low < high and #some < count do
    local size, texts = min(count - #some, high - low)
    if is_last then
      texts, high = call('LRANGE', key, high - size, high - 1), high - size
    else
      texts, low = call('LRANGE', key, low, low + size - 1), low + size
    end
    for _, text in ipairs(texts) do
      local at, previous = opened(text)
      if at then
        some[#some + 1] = {at, text, previous}
      else
        is_complete = false
      end
    end
  end
  return some
end

local function is_less(one, other) return one[1] < other[1] end

-- Keeps one more than an answer may hold.
local function cut_found()
  table.sort(found, is_less)
  local excess = #found - limit - 1
  if excess <= 0 then return end
  if from_end then
    for i = 1, limit + 1 do found[i] = found[i + excess] end
    cutoff = not after and found[1][1] or 0
  end
  for i = #found, limit + 2, -1 do found[i] = nil end
end

for c = #names, 1, -1 do
  local key, count = KEYS[3 + c], 0
  if last[c] > start and last[c] >= cutoff then
    count = redis.pcall('LLEN', key)
    if type(count) == 'table' then count, is_complete = 0, false end
    local low = oldest(key, count)
    low = first_index(key, low, count, function(at, till) return at <= start or till <= now end)
    if after and is_complete then
      local first = taken(key, low, count, 1)[1]
      is_complete = is_complete and first and first[3] <= start
    end
    local high = count
    if stop <= last[c] then
      high = first_index(key, low, count, function(at) return at < stop end)
    end
    local want = limit + 1
    if newest and from_end then want = min(want, newest) end
    if newest and not from_end then low = max(low, high - newest) end
    for _, entry in ipairs(taken(key, low, high, want, from_end)) do
      found[#found + 1] = entry
    end
    if #found > 4 * limit + 64 then cut_found() end
  end
end
if after and start < floor and (within or last[1] == 0) then is_complete = false end
cut_found()
local has_more, texts = #found > limit, {}
local skipped = has_more and from_end and 1 or 0
for i = 1, min(limit, #found) do texts[i] = found[i + skipped][2] end

local changed = {}
if within and not is_last then
  local least = '(' .. string.format('%d', since or start)
  for _, name in ipairs(call('ZRANGEBYSCORE', CHANNELS, least, '+inf')) do
    if sub(name, 1, #within) == within then changed[#changed + 1] = name end
  end
end
return {epoch, offset, tag, is_complete and 1 or 0, has_more and 1 or 0, texts, changed}
"""
)
"""Answers a question about some channels.

Keys: also the lists of the channels, those with lesser last offsets first. Plan: a new epoch;
``after``, ``before``, ``limit``, ``newest`` and ``is_from_end`` of the question; the index where
the name of a channel begins in its key. For a pattern with wildcards: its literal start, and an
offset. What changed after that is returned, too; None: after ``after``. At last: whether nothing
after that offset is wanted any more.

Reply: epoch, offset and tag of the store, whether the answer is complete, whether it is cut,
its entries in order, and the channels that have changed.
"""
