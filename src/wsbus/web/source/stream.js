// The events of one pattern, as an async iterator with a bounded buffer.
import { join } from "./gaps.js";

/** @import { BusEvent, Gap } from "./types.js" */

/**
 * What takes events of one pattern: a loop, or a call of `subscribe`, which alone has `leave`.
 * @typedef {{ confirm?(): void, dismiss(error: Error): void, lose?(gap: Gap): void, push?(event: BusEvent): void,
 *   signal?: AbortSignal, leave?(): void }} Holder
 */
/** @typedef {Holder & { events: AsyncGenerator<BusEvent, undefined>, end(error?: unknown, isOthers?: boolean): void }} Stream */

/**
 * @param {number} limit Of more than so many unread events the oldest go.
 * @param {(gap: Gap) => void} tell Called when a loop comes to a gap of the buffer.
 * @param {() => void} leave Called when it ends.
 * @param {(channel: string) => () => void} begin Called when a loop takes an event; what it returns, when it comes back.
 * @returns {Stream}
 */
export const makeStream = (limit, tell, leave, begin) => {
  /** `full`: what the buffer lost before the event; only the first one has it. @type {{ event: BusEvent, gap?: Gap, full?: Gap }[]} */
  let buffer = [];
  /** What is missing before the next event. @type {Gap | undefined} */
  let gap;
  /** @type {{ error: unknown } | undefined} */
  let ended;
  let wake = () => {};

  const read = async function* () {
    for (;;) {
      for (let item; (item = buffer.shift()); ) {
        const { event, full } = item;
        if (full) tell(full);
        const gap = join(full, item.gap);
        const done = begin(event.channel);
        yield gap ? { ...event, gap } : { ...event };
        done();
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
      buffer.push({ event, gap });
      gap = undefined;
      if (buffer.length > limit && buffer.length > 1) {
        const [oldest, next] = buffer.splice(0, 2);
        /** @type {Gap} */
        const one = { lost: 1, cause: "buffer", channels: new Map([[oldest.event.channel, { lost: 1 }]]) };
        buffer.unshift({ event: next.event, gap: join(oldest.gap, next.gap), full: join(oldest.full, one) });
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
