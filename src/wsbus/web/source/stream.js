// The events of one pattern, as an async iterator with a bounded buffer.

/** @import { LostOn } from "./actions.js" */
/** @import { BusEvent, Gap } from "./types.js" */

/**
 * What takes events of one pattern: a loop, or a call of `subscribe`, which alone has `leave`.
 * @typedef {{ confirm?(): void, dismiss(error: Error): void, lose?(gap: Gap): void, push?(event: BusEvent): void,
 *   signal?: AbortSignal, leave?(): void }} Holder
 */
/** @typedef {Holder & { events: AsyncGenerator<BusEvent, undefined>, end(error?: unknown, isOthers?: boolean): void }} Stream */

/**
 * A gap as the session tells it, for the application.
 * @param {{ lost: number | null, cause: Gap["cause"], channels?: LostOn[] }} told
 * @returns {Gap}
 */
export const gapOf = ({ lost, cause, channels }) => ({
  lost,
  cause,
  ...(channels && { channels: new Map(channels.map(({ channel, lost = null, ...more }) => [channel, { lost, ...more }])) }),
});

/** Of several causes, the first one counts. @type {Gap["cause"][]} */
const CAUSES = ["reconnect", "broker", "server", "buffer"];

/**
 * Two gaps before the same event are one; of which channels it is, is then not known.
 * @param {Gap | undefined} first
 * @param {Gap | undefined} second
 * @returns {Gap | undefined}
 */
const join = (first, second) => {
  if (!first || !second) return first ?? second;
  const lost = first.lost === null || second.lost === null ? null : first.lost + second.lost;
  return { lost, cause: CAUSES.find((cause) => cause === first.cause || cause === second.cause) ?? first.cause };
};

/**
 * @param {number} limit Of more than so many unread events the oldest go.
 * @param {(gap: Gap) => void} tell Called when a loop comes to a gap of the buffer.
 * @param {() => void} leave Called when it ends.
 * @returns {Stream}
 */
export const makeStream = (limit, tell, leave) => {
  /** @type {{ event: BusEvent, gap?: Gap, dropped: number }[]} */
  let buffer = [];
  /** What is missing before the next event. @type {Gap | undefined} */
  let gap;
  /** @type {{ error: unknown } | undefined} */
  let ended;
  let wake = () => {};

  const read = async function* () {
    for (;;) {
      for (let item; (item = buffer.shift()); ) {
        const { event, dropped } = item;
        /** @type {Gap | undefined} */
        const full = dropped ? { lost: dropped, cause: "buffer" } : undefined;
        if (full) tell(full);
        const before = join(full, item.gap);
        yield before ? { ...event, gap: before } : { ...event };
      }
      if (ended?.error) throw ended.error;
      if (ended) return undefined;
      await /** @type {Promise<void>} */ (new Promise((resolve) => (wake = resolve)));
    }
  };

  /** @type {AsyncGenerator<BusEvent, undefined>} */
  const events = read();
  const [next, end] = [events.next, events.return];
  // A step that fails is the business of the loop that waits for it.
  events.next = () => {
    const step = next.call(events);
    step.catch(() => {});
    return step;
  };
  events.return = (value) => {
    stream.end();
    return end.call(events, value);
  };

  /** @type {Stream} */
  const stream = {
    events,
    dismiss: (error) => stream.end(error, true),
    lose: (more) => void (gap = join(gap, more)),
    push(event) {
      buffer.push({ event, gap, dropped: 0 });
      gap = undefined;
      if (buffer.length > limit && buffer.length > 1) {
        const [oldest, next] = buffer.splice(0, 2);
        buffer.unshift({ event: next.event, gap: join(oldest.gap, next.gap), dropped: oldest.dropped + 1 });
      }
      wake();
    },
    /** `isOthers`: not the page ends it, so that what is unread stays. */
    end(error, isOthers) {
      if (ended) return;
      ended = { error };
      if (!isOthers) buffer = [];
      wake();
      leave();
    },
  };
  return stream;
};
