// The states of a session, and what leads from one to the next. The names are those of
// `core/client/states.py`.

/** @typedef {keyof import("./actions.js").Inputs<never, never>} Input */
/** One of these. @typedef {1 | 2 | 4 | 8 | 16 | 32} SessionState */

/** There is no connection, and another attempt is due at the deadline. */
export const WAITING = 0b100000;
/** The application is asked for a token. */
export const FETCHING = 0b010000;
/** A connection is being opened. */
export const DIALLING = 0b001000;
/** The server has not said yet who this is. */
export const GREETING = 0b000100;
/** Everything can be said. */
export const OPEN = 0b000010;
/** It is over. */
export const ENDED = 0b000001;

/**
 * Which input does something in which state (1), and which one is ignored there (0): it comes too late, or
 * there is nothing to do.
 * @type {Record<Input, number>}
 */
export const TABLE = {
  //               WFDGOE
  connect:     0b100001,
  pause:       0b111100,
  close:       0b111111,
  subscribe:   0b111111,
  unsubscribe: 0b111111,
  renew:       0b000010,
  request:     0b111111,
  forget:      0b111111,
  opened:      0b001000,
  failed:      0b001000,
  lost:        0b001110,
  token:       0b010010,
  noToken:     0b010010,
  heard:       0b000110,
  deadline:    0b111110,
  wake:        0b100011,
  check:       0b000010,
  began:       0b000010,
  worked:      0b000010,
};
