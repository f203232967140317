// The states of a session, and what leads from one to the next. The names are those of
// `core/client/states.py`.

/** @typedef {keyof import("./actions.js").Inputs<never, never>} Input */
/**
 * `waiting`: there is no connection, and another attempt is due at the deadline. `fetching`: the
 * application is asked for a token. `dialling`: a connection is being opened. `greeting`: the server has
 * not said yet who this is. `open`: everything can be said. `ended`: it is over.
 * @typedef {"waiting" | "fetching" | "dialling" | "greeting" | "open" | "ended"} SessionState
 */

/** @type {SessionState[]} */
export const STATES = ["waiting", "fetching", "dialling", "greeting", "open", "ended"];

/**
 * Which input does something in which state (1), and which one is ignored there (0): it comes too late, or
 * there is nothing to do. The columns are those of `STATES`.
 * @type {Record<Input, number>}
 */
export const TABLE = {
  //               WFDGOE
  connect:     0b100001,
  pause:       0b111100,
  close:       0b111111,
  subscribe:   0b111111,
  unsubscribe: 0b111111,
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
};

/**
 * Whether an input does something in a state.
 * @type {(type: Input, state: SessionState) => number}
 */
export const takes = (type, state) => (TABLE[type] >> (5 - STATES.indexOf(state))) & 1;
