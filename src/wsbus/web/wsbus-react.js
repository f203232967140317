// SPDX-License-Identifier: MIT
// Hooks for React. A bundler or Node resolves `react`, the page's own; a page without either has no use for it.
import { useCallback, useMemo, useRef, useState, useSyncExternalStore } from "react";
import { watchPresence } from "./wsbus-presence.js";

/** @import { BusEvent, RequestOptions } from "./wsbus.js" */
/** @import { RosterChange } from "./wsbus-presence.js" */
/** @import { CommandState, EventsOptions, Failure, Followed } from "./wsbus-react.js" */

/**
 * What loops bring, as a store. One runs while a component listens, and begins anew when a closed client
 * connects again.
 * @template {{ error?: Failure }} S
 * @template T
 * @param {Followed} client
 * @param {(signal: AbortSignal) => AsyncIterable<T>} open
 * @param {S} first What a server renders, and what is there before anything has come.
 * @param {(state: S, item: T) => S} add
 */
const storeOf = (client, open, first, add) => {
  let state = first;
  return {
    get: () => state,
    first: () => first,

    /** @param {() => void} tell */
    subscribe(tell) {
      const listening = new AbortController();
      let loop = new AbortController();
      let isOver = true;
      /** @type {ReturnType<typeof setTimeout> | undefined} */
      let due;
      /** Events that come together are one rendering. @param {S} next */
      const set = (next) => {
        state = next;
        due ??= setTimeout(() => {
          due = undefined;
          tell();
        });
      };
      const run = async () => {
        const { signal } = (loop = new AbortController());
        set(first);
        try {
          for await (const item of open(signal)) if (!signal.aborted) set(add(state, item));
        } catch (error) {
          if (!signal.aborted) set({ ...state, error: /** @type {Failure} */ (error) });
        }
      };
      const check = () => {
        const isClosed = client.state === "closed";
        if (isOver && !isClosed) {
          loop.abort();
          run();
        }
        isOver = isClosed;
      };
      client.addEventListener("state", check, { signal: listening.signal });
      check();
      return () => {
        listening.abort();
        loop.abort();
        clearTimeout(due);
      };
    },
  };
};

/** @template S @param {{ subscribe(tell: () => void): () => void, get(): S, first(): S }} store */
const useStore = ({ subscribe, get, first }) => useSyncExternalStore(subscribe, get, first);

/** @type {typeof import("./wsbus-react.js").useConnection} */
export const useConnection = (client) => {
  const subscribe = useCallback(
    (/** @type {() => void} */ tell) => {
      client.addEventListener("state", tell);
      return () => client.removeEventListener("state", tell);
    },
    [client],
  );
  return useSyncExternalStore(subscribe, () => client.state, () => "idle");
};

/** @typedef {{ events: BusEvent[], error?: Failure }} Events */
/** @type {(client: Followed, pattern: string, options?: EventsOptions) => Events} */
export const useEvents = (client, pattern, { limit = 100, maxRate } = {}) => {
  const make = () =>
    storeOf(
      client,
      (signal) => client.events(pattern, { signal, maxRate }),
      /** @type {Events} */ ({ events: [] }),
      ({ events }, event) => ({ events: [...events, event].slice(-limit) }),
    );
  return useStore(useMemo(make, [client, pattern, limit, maxRate]));
};

/** @type {(client: Followed, pattern: string, options?: EventsOptions) => { event?: BusEvent, error?: Failure }} */
export const useLatest = (client, pattern, options) => {
  const { events, ...more } = useEvents(client, pattern, { ...options, limit: 1 });
  return { event: events[0], ...more };
};

/** @type {typeof import("./wsbus-react.js").usePresence} */
export const usePresence = (client, channel) => {
  const make = () =>
    storeOf(
      client,
      (signal) => watchPresence(client, channel, { signal }),
      /** @type {{ roster?: RosterChange, error?: Failure }} */ ({}),
      (_, roster) => ({ roster }),
    );
  return useStore(useMemo(make, [client, channel]));
};

/** @typedef {[params?: unknown, options?: RequestOptions]} Rest */
/** @type {(client: Followed, action: string) => [(...rest: Rest) => Promise<unknown>, CommandState<unknown>]} */
export const useCommand = (client, action) => {
  const [state, setState] = useState(/** @type {CommandState<unknown>} */ ({ isRunning: false }));
  const latest = useRef(0);
  const run = useCallback(
    (/** @type {Rest} */ ...rest) => {
      const mine = ++latest.current;
      /** @param {{ data: unknown } | { error: Failure }} outcome */
      const settle = (outcome) => mine === latest.current && setState({ ...outcome, isRunning: false });
      setState(({ data }) => ({ data, isRunning: true }));
      const answer = client.command(action, ...rest);
      answer.then((data) => settle({ data }), (error) => settle({ error })); // No caller need wait for it.
      return answer;
    },
    [client, action],
  );
  return [run, state];
};
