/** A request failed. */
export class CommandError extends Error {
  name = "CommandError";
  /** @param {string} code @param {string} message */
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/** `code` is a close code; 1006: none came. */
export class ConnectionError extends Error {
  name = "ConnectionError";
  /** @param {number} code @param {string} message @param {string} [reason] */
  constructor(code, message, reason = "") {
    super(message);
    this.code = code;
    this.reason = reason;
  }
}
