// When a client's token is refreshed. Pure; a port of what is pure time in `core/client/token.py`. In ms.

/** A token is refreshed so long before it expires, or after half its life if that is later. */
const REFRESH = 30_000;
/** A token with less left is not refreshed again after a failure. */
const TOO_LATE = 200;

/** @param {boolean} isFetched The application is asked for it. */
export const makeRefresh = (isFetched) => {
  let expiresAt = Infinity;

  const self = {
    /** When to ask for a newer one. */
    refreshAt: Infinity,

    /** The server has accepted it. @param {number} life How long it lasts; NaN: for good. @param {number} now */
    admitted(life, now) {
      self.refreshAt = expiresAt = Infinity;
      if (life > 0) {
        expiresAt = now + life;
        if (isFetched) self.refreshAt = now + Math.max(life / 2, life - REFRESH);
      }
    },

    /** It could not be refreshed. The old one is in force while it lasts: try again after half of that. @param {number} now */
    keep(now) {
      const left = expiresAt - now;
      if (isFetched && left > TOO_LATE) self.refreshAt = now + left / 2;
    },
  };
  return self;
};
