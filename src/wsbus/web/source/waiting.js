// Promises that are settled once: by an answer, by a time limit, or by a signal.

/** @import { Limited } from "./types.js" */
/**
 * @template T
 * @typedef {{ resolve: (value: T) => void, reject: (error: unknown) => void }} Waiter
 */

/** A rejection with one of these codes follows from what the page itself did: it is not reported as unhandled. */
/** @type {unknown[]} */
const OURS = ["CLOSED", "UNSUBSCRIBED"];

/** Timers take whole numbers, and cannot wait longer. @type {(ms: number) => number} */
export const clamp = (ms) => Math.min(Math.ceil(ms), 2e9);

/** Call when a signal is aborted; returns what ends that. @type {(signal: AbortSignal | undefined, run: () => void) => () => void} */
export const onAbort = (signal, run) => {
  signal?.addEventListener("abort", run);
  return () => signal?.removeEventListener("abort", run);
};

/**
 * Wait for what `begin` starts. The waiter settles it, or the time limit (`late` makes the error), or the
 * signal. `begin` returns what is called afterwards, with whether it has failed.
 * @template T
 * @param {Limited} options
 * @param {(waiter: Waiter<T>) => ((hasFailed: boolean) => void) | void} begin
 * @param {(timeout: number, waiter: Waiter<T>) => Error} [late]
 * @returns {Promise<T>}
 */
export const wait = ({ signal, timeout = 30_000 }, begin, late) => {
  /** @type {Promise<T>} */
  const promise = new Promise((resolve, reject) => {
    /** @type {boolean | undefined} */
    let hasFailed;
    /** @type {((hasFailed: boolean) => void) | void} */
    let after = undefined;
    /** @type {(() => void) | undefined} */
    let stay;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    /** @type {<V>(settle: (value: V) => void, isFailure: boolean) => (value: V) => void} */
    const once = (settle, isFailure) => (value) => {
      if (hasFailed !== undefined) return;
      hasFailed = isFailure;
      clearTimeout(timer);
      stay?.();
      settle(value);
      after?.(isFailure);
    };
    /** @type {Waiter<T>} */
    const waiter = {
      resolve: once(resolve, false),
      reject: once((error) => {
        const code = /** @type {{ code?: unknown } | undefined} */ (error)?.code;
        if (signal?.aborted || OURS.includes(code)) queueMicrotask(() => promise.catch(() => {}));
        reject(error);
      }, true),
    };
    const abort = () => waiter.reject(signal?.reason);
    if (signal?.aborted) return abort();
    stay = onAbort(signal, abort);
    if (late) timer = setTimeout(() => waiter.reject(late(timeout, waiter)), clamp(timeout));
    try {
      after = begin(waiter);
    } catch (error) {
      waiter.reject(error);
    }
    if (hasFailed !== undefined) after?.(hasFailed);
    return undefined;
  });
  return promise;
};
