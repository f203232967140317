// SPDX-License-Identifier: MIT
// Hooks for React. A bundler or Node resolves `react`, the page's own; a page without either has no use for it.
import { useCallback, useEffect, useRef, useState, useSyncExternalStore } from "react";
import { watchPresence } from "./wsbus-presence.js";

/** @import { BusEvent, RequestOptions } from "./wsbus.js" */
/** @import { RosterChange } from "./wsbus-presence.js" */
/** @import { CommandState, EventsOptions, Failure, Followed } from "./wsbus-react.js" */
/** @typedef {{ events: BusEvent[], error?: Failure }} Events */
/** @typedef {{ roster?: RosterChange, error?: Failure }} Presence */
/** @typedef {[params?: unknown, options?: RequestOptions]} Rest */

/** @type {Events} */
const NO_EVENTS = { events: [] };
/** @type {Presence} */
const NOT_ANSWERED = {};

/** @param {Parameters<typeof useConnection>[0]} client @param {() => void} tell */
const listen = (client, tell) => {
  client.addEventListener("state", tell);
  return () => client.removeEventListener("state", tell);
};

/** @type {typeof import("./wsbus-react.js").useConnection} */
export const useConnection = (client) =>
  useSyncExternalStore(useCallback((tell) => listen(client, tell), [client]), () => client.state, () => "idle");

/**
 * What a loop brings. It runs while the component is there, and anew when a closed client connects again.
 * @template {{ error?: Failure }} S @template T
 * @param {Followed} client @param {S} first @param {(state: S, item: T) => S} add
 * @param {(signal: AbortSignal) => AsyncIterable<T>} open @param {unknown[]} names Of what is followed.
 */
const useLoop = (client, first, add, open, names) => {
  const current = useCallback(open, [client, ...names]);
  const [{ of, state }, setState] = useState({ of: current, state: first });
  useEffect(() => {
    let loop = new AbortController();
    let isOver = true;
    const run = async () => {
      const { signal } = loop;
      /** @param {(state: S) => S} next */
      const set = (next) => signal.aborted || setState((was) => {
        const state = next(was.state);
        return was.of === current && was.state === state ? was : { of: current, state };
      });
      set(() => first);
      try {
        for await (const item of current(signal)) set((state) => add(state, item));
      } catch (error) {
        set((state) => ({ ...state, error: /** @type {Failure} */ (error) }));
      }
    };
    const check = () => {
      const wasOver = isOver;
      isOver = client.state === "closed";
      if (isOver || !wasOver) return;
      loop.abort();
      loop = new AbortController();
      run();
    };
    const leave = listen(client, check);
    check();
    return () => {
      leave();
      loop.abort();
    };
  }, [current]);
  return of === current ? state : first; // The state before is of something else.
};

/** @type {(client: Followed, pattern: string, options?: EventsOptions) => Events} */
export const useEvents = (client, pattern, { limit = 100, maxRate } = {}) =>
  useLoop(
    client,
    NO_EVENTS,
    ({ events }, /** @type {BusEvent} */ event) => ({ events: [...events, event].slice(-limit) }),
    (signal) => client.events(pattern, { signal, maxRate }),
    [pattern, limit, maxRate],
  );

/** @type {(client: Followed, pattern: string, options?: EventsOptions) => { event?: BusEvent, error?: Failure }} */
export const useLatest = (client, pattern, options) => {
  const { events, ...more } = useEvents(client, pattern, { ...options, limit: 1 });
  return { event: events[0], ...more };
};

/** @type {(client: Followed, channel: string) => Presence} */
export const usePresence = (client, channel) =>
  useLoop(
    client,
    NOT_ANSWERED,
    (_, /** @type {RosterChange} */ roster) => ({ roster }),
    (signal) => watchPresence(client, channel, { signal }),
    [channel],
  );

/** @type {(client: Followed, action: string) => [(...rest: Rest) => Promise<unknown>, CommandState<unknown>]} */
export const useCommand = (client, action) => {
  const [state, setState] = useState(/** @type {CommandState<unknown>} */ ({ isRunning: false }));
  const latest = useRef(0);
  const run = useCallback(
    (/** @type {Rest} */ ...rest) => {
      const mine = ++latest.current;
      /** @param {CommandState<unknown>} outcome */
      const settle = (outcome) => mine === latest.current && setState(outcome);
      setState(({ data }) => ({ data, isRunning: true }));
      const answer = client.command(action, ...rest);
      // No caller need wait for it.
      answer.then((data) => settle({ data, isRunning: false }), (error) => settle({ error, isRunning: false }));
      return answer;
    },
    [client, action],
  );
  return [run, state];
};
