// What is missing, for the application. Pure.

/** @import { LostOn } from "./actions.js" */
/** @import { Gap } from "./types.js" */

/** A gap as the session tells it, for the application. @type {(lost: number | null, cause: Gap["cause"], channels?: LostOn[]) => Gap} */
export const gapOf = (lost, cause, channels) => ({
  lost,
  cause,
  ...(channels && { channels: new Map(channels.map(({ channel, lost = null, ...more }) => [channel, { lost, ...more }])) }),
});

/** Of several causes, the first one counts. @type {Gap["cause"][]} */
const CAUSES = ["reconnect", "broker", "server", "buffer"];

/** A gap that concerns more channels names none. */
const MAX_CHANNELS = 16;

/** Of what is not known there is no sum. @type {(one: number | null, other: number | null) => number | null} */
export const sum = (one, other) => (one === null || other === null ? null : one + other);

/**
 * Two gaps before the same event are one.
 * @param {Gap | undefined} first
 * @param {Gap | undefined} second
 * @returns {Gap | undefined}
 */
export const join = (first, second) => {
  if (!first || !second) return first ?? second;
  const channels = new Map(first.channels);
  for (const [name, loss] of second.channels ?? []) {
    const before = channels.get(name);
    channels.set(name, before ? { ...before, ...loss, lost: sum(before.lost, loss.lost) } : loss);
  }
  const areKnown = first.channels && second.channels && channels.size <= MAX_CHANNELS;
  return {
    lost: sum(first.lost, second.lost),
    cause: CAUSES.find((cause) => cause === first.cause || cause === second.cause) ?? first.cause,
    ...(areKnown && { channels }),
  };
};
