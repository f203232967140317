import type { Client, Roster } from "./wsbus.js";

/** What a watch needs of a client. */
export type Watchable = Pick<Client, "state" | "presence" | "addEventListener">;
/**
 * The connections on a channel, and what has changed since the step before. `members`: those that are there longest, up
 * to the bound of the family. `count`: all of them.
 */
export type RosterChange = Pick<Roster, "channel" | "members" | "count"> & Record<"joined" | "left", Roster["members"]>;
/**
 * Watch the connections on a channel, until the loop is left: the first step gives all that are there, each other one
 * what has changed. While there is no connection it keeps what it knew; the difference is then one step. The loop ends
 * with the client; it throws what the server refuses.
 */
export declare const watchPresence: (
  client: Watchable, channel: string, options?: { signal?: AbortSignal },
) => AsyncIterableIterator<RosterChange, undefined>;
