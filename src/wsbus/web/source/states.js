// The states of a session, and what leads from one to the next. The names are those of
// `core/client/states.py`.

/** @typedef {import("./actions.js").Input<never, never>} Input */
/**
 * `waiting`: there is no connection, and another attempt is due at the deadline. `fetching`: the
 * application is asked for a token. `dialling`: a connection is being opened. `greeting`: the server has
 * not said yet who this is. `open`: everything can be said. `ended`: it is over.
 * @typedef {"waiting" | "fetching" | "dialling" | "greeting" | "open" | "ended"} SessionState
 */

/** @type {SessionState[]} */
export const STATES = ["waiting", "fetching", "dialling", "greeting", "open", "ended"];

/**
 * Which input does something in which state (`+`), and which one is ignored there (`-`): it comes too
 * late, or there is nothing to do. The columns are those of `STATES`.
 * @type {Record<Input["type"], string>}
 */
export const TABLE = {
  //           WFDGOE
  connect:     "+----+",
  pause:       "++++--",
  close:       "++++++",
  subscribe:   "++++++",
  unsubscribe: "++++++",
  request:     "++++++",
  forget:      "++++++",
  opened:      "--+---",
  failed:      "--+---",
  lost:        "--+++-",
  token:       "-+--+-",
  noToken:     "-+--+-",
  heard:       "---++-",
  deadline:    "+-+++-",
  wake:        "+---++",
  check:       "----+-",
};
