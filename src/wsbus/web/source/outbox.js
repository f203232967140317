// What a client has yet to send: names first, then requests, each as its rate allows. Pure; a port of
// `core/client/outbox.py`.

import { json } from "./json.js";

/** Bytes of names in one request; halved whenever a message was too large for the server. */
const MAX_ASK_BYTES = 16_384;

/**
 * @template H, K
 * @param {import("./actions.js").Emit<H, K>} emit
 * @param {import("./subscriptions.js").Subscriptions<H>} subscriptions
 * @param {import("./requests.js").Requests<K>} requests
 * @param {import("./pace.js").Pace} pace
 * @param {import("./json.js").Codec} [codec]
 */
export const makeOutbox = (emit, subscriptions, requests, pace, codec = json) => {
  let askBytes = MAX_ASK_BYTES;
  let refs = 0;

  const newRef = () => `${++refs}`;

  const self = {
    /** Say what cannot wait. @param {object} message @param {number} now @param {number} [names] */
    say(message, now, names) {
      pace.take(now, names);
      emit("say", codec.write(message));
    },

    /** Say what has an answer; returns its id. @param {object} message @param {number} now */
    ask(message, now) {
      const id = newRef();
      self.say({ ...message, id }, now);
      return id;
    },

    /** The connection ended. @param {string} why @param {boolean} isTooBig A message was too large. */
    cut(why, isTooBig) {
      if (isTooBig) askBytes /= 2;
      requests.cut(why, isTooBig);
    },

    /** A request for names was refused. Returns whether it is made again. @param {string} ref @param {string} code @param {number} now */
    asksAgain(ref, code, now) {
      const count = subscriptions.count(ref);
      if (code === "RATE_LIMITED") pace.of().refused(now);
      // The server takes fewer names at once.
      else if (code === "INVALID_MESSAGE" && count > 1) pace.maxNames = Math.min(pace.maxNames, count >> 1);
      else return false;
      subscriptions.postpone(ref);
      return true;
    },

    /** Say what waits, as much as the rates of the server allow. @param {number} now */
    flush(now) {
      while (subscriptions.hasRequests() && pace.readyAt(now) <= now) {
        const message = subscriptions.next(newRef(), pace.names(now), Math.min(askBytes, pace.maxBytes / 2));
        self.say(message, now, message.channels.length);
      }
      requests.send(newRef, now, subscriptions.size());
    },

    /** When more can be said; Infinity: nothing waits. @param {number} now */
    readyAt: (now) => Math.min(requests.readyAt(now), subscriptions.hasRequests() ? pace.readyAt(now) : Infinity),
  };
  return self;
};
