// Messages as JSON; a codec for another form has the same functions.

/** What is sent. @typedef {string | Uint8Array<ArrayBuffer>} Written */
/**
 * How messages are written. `add`: what was written, with one more field.
 * @typedef {{ write(message: object): Written, add(written: Written, name: string, value: string | boolean): Written }} Codec
 */

/** @type {Codec} */
export const json = {
  write: (message) => JSON.stringify(message),
  add: (written, name, value) => `${written.slice(0, -1)},"${name}":${JSON.stringify(value)}}`,
};
