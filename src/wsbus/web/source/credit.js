// How much a tab takes: it notices that it falls behind, and asks for less until it has caught up. Pure.
//
// A browser reads a socket whatever the page does, so that a server never sees how slow a page is. What
// shows it is here: the time that handlers and loops take for an event, and how late the event loop is.
// Work makes a debt, which rest pays back quickly. If an event comes right after work, while there is a
// debt, events have waited: then the level falls to what the tab can do. While it rests, the level rises.

/** Events a second of one key: where "auto" begins, the most that it asks for, and the least of all. */
const FIRST = 10;
const AUTO = 60;
const LEAST = 0.5;
/** Above this level a tab that was behind has caught up. */
const FULL = 1000;
/** The part of its time that a tab may spend on events; below half of it there is room for more. */
const SHARE = 0.75;
/** From one look at that to the next, in ms. */
const LOOK = 500;
/** The debt that shows that a tab is behind, in ms. */
const DEBT = 80;
/** Rest that is none: the time between two tasks, in ms. */
const BREATH = 5;

export const makeCredit = () => {
  let level = FIRST;
  let isBehind = false;
  let debt = 0;
  /** Up to here all time is judged, as work or rest. */
  let judged = 0;
  let since = 0; // The last look.
  let quiet = 0; // Until then the last change has its effect.
  let busy = 0; // Work since the last look.
  let count = 0; // Events since then.
  /** Their channels. @type {Set<string>} */
  const channels = new Set();

  /** @param {number} now @param {number} newLevel */
  const look = (now, newLevel) => {
    level = Math.max(LEAST, Math.round(newLevel * 100) / 100);
    since = now;
    busy = count = 0;
    channels.clear();
  };

  return {
    /** The rate to ask for. @param {number | "auto"} most What the application wants at most. */
    rateOf: (most) => (most === "auto" ? Math.min(AUTO, level) : Math.min(most, isBehind ? level : FULL)),

    /** An event is about to be handled. @param {number} now @param {string} channel */
    began(now, channel) {
      const rest = Math.max(0, now - judged);
      judged = Math.max(judged, now);
      debt = Math.max(0, debt - 4 * rest);
      if (debt >= DEBT && rest < BREATH && now >= quiet) {
        const able = (SHARE * 1000 * count) / busy / Math.max(1, channels.size);
        const top = isBehind || level < AUTO ? level : FULL;
        isBehind = true;
        debt = 0;
        look(now, able < 0.9 * top ? able : 0.7 * top);
        quiet = now + Math.min(2000, 4000 / level);
      } else if (now - since >= LOOK) {
        const isFree = busy < (now - since) / 2;
        if (isFree && level >= FULL) isBehind = false;
        look(now, isFree ? Math.min(2 * level, FULL) : level);
      }
      count++;
      channels.add(channel);
    },

    /** It was handled, or the event loop was late. @param {number} now @param {number} from Its begin. */
    worked(now, from) {
      const work = Math.max(0, now - Math.max(from, judged));
      judged = Math.max(judged, now);
      busy += work;
      debt += work;
    },
  };
};
