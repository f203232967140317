import type { RosterChange, Watchable } from "./wsbus-presence.js";
import type { BusEvent, Client, CommandError, ConnectionError, MaxRate, RequestOptions, State } from "./wsbus.js";

/** What the hooks need of a client: `Client`, or the `AppClient` that `wsbus schema --format typescript` writes. */
export interface Followed extends Watchable, Pick<Client, "removeEventListener"> {
  events(pattern: string, options?: { signal?: AbortSignal; maxRate?: MaxRate }): AsyncIterable<BusEvent>;
  command(action: string, params?: unknown, options?: RequestOptions): Promise<unknown>;
}

type Plain = Followed & { readonly "~types"?: undefined };
type TypesOf<C> = C extends { readonly "~types"?: infer T } ? NonNullable<T> : {};
type ChannelsOf<C> = TypesOf<C> extends { channels: infer H } ? H : {};
type CommandsOf<C> = TypesOf<C> extends { commands: infer M } ? M : Record<string, Untyped>;
type Untyped<T = unknown> = { params: unknown; result: T };
type Holding<H, Name> = {
  [T in keyof H]: H[T] extends { name: infer N } ? (Name extends N ? T : never) : never;
}[keyof H];
type EventIn<H, T extends keyof H> = T extends T
  ? H[T] extends { events: infer E } ? { [K in keyof E & string]: BusEvent<E[K]> & { event: K } }[keyof E & string] : never
  : never;
/** The events of a pattern, as the types of the client have them; of any other one the data is unknown. */
export type EventOf<C, Name> = [Holding<ChannelsOf<C>, Name>] extends [never]
  ? BusEvent
  : EventIn<ChannelsOf<C>, Holding<ChannelsOf<C>, Name>>;

/** `limit`: so many events, the newest (100). `maxRate`: as of a subscription. */
export type EventsOptions = { limit?: number; maxRate?: MaxRate };
/** Why there is nothing, or nothing more: the server refused or ended it, or the client has given up. */
export type Failure = CommandError | ConnectionError;
/** Of the last call: `data` stays while the next one runs. */
export type CommandState<T> = { data?: T; error?: Failure; isRunning: boolean };
type Run<M> = M extends { params: infer P; result: infer R }
  ? (
      ...rest: {} extends P ? [params?: P, options?: RequestOptions] : unknown extends P
        ? [params?: unknown, options?: RequestOptions] : [params: P, options?: RequestOptions]
    ) => Promise<R>
  : never;
type ResultOf<M> = M extends { result: infer R } ? R : unknown;

/** The state of the client; on a server "idle". */
export declare function useConnection(client: Pick<Followed, "state" | "addEventListener" | "removeEventListener">): State;

/** Subscribe to a pattern while the component is there; the newest events, the oldest of them first. */
export declare function useEvents<C extends Followed, Name extends string>(
  client: C, pattern: Name, options?: EventsOptions,
): { events: readonly EventOf<C, Name>[]; error?: Failure };
export declare function useEvents<T>(
  client: Plain, pattern: string, options?: EventsOptions,
): { events: readonly BusEvent<T>[]; error?: Failure };

/** Subscribe to a pattern while the component is there; the newest event. */
export declare function useLatest<C extends Followed, Name extends string>(
  client: C, pattern: Name, options?: Pick<EventsOptions, "maxRate">,
): { event?: EventOf<C, Name>; error?: Failure };
export declare function useLatest<T>(
  client: Plain, pattern: string, options?: Pick<EventsOptions, "maxRate">,
): { event?: BusEvent<T>; error?: Failure };

/** Watch the connections on a channel while the component is there; no `roster`: the server has not answered yet. */
export declare function usePresence(client: Followed, channel: string): { roster?: RosterChange; error?: Failure };

/** A function that calls a command, the same one from one rendering to the next, and how the last call went. */
export declare function useCommand<C extends Followed, A extends keyof CommandsOf<C> & string>(
  client: C, action: A,
): [run: Run<CommandsOf<C>[A]>, state: CommandState<ResultOf<CommandsOf<C>[A]>>];
export declare function useCommand<T>(
  client: Plain, action: string,
): [run: Run<Untyped<T>>, state: CommandState<T>];
