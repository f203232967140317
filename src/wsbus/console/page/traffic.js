// What the counters of the samples say about time: rates, and their last five minutes.

const MOST_POINTS = 300;
const LONGEST_GAP = 10;

/** Rates over the time between two samples; the counters are sums since the bus was started. */
const COUNTED = {
  received: (totals) => totals.messages_received,
  published: (totals) => totals.publications,
  delivered: (totals) => totals.sent,
  dropped: (totals) => totals.dropped + totals.refused,
  failed: (totals) => totals.failures,
};

export class Traffic {
  /** Oldest first; null where samples are missing. */
  points = [];
  #before = null;

  /** Take a sample; the rates since the one before, or null if there is none to go by. */
  add(sample) {
    const { clock, node, totals, cpu, lag } = sample;
    // Counters of another run of the bus start anew, and may be beyond those of the one before.
    const before = this.#before?.node === node ? this.#before : null;
    const elapsed = before ? clock - before.clock : 0;
    // Samples that follow at once, because something else is looked at, say little about rates.
    if (before && elapsed < 0.6) return this.points.at(-1) ?? null;
    this.#before = sample;
    if (!before || elapsed > LONGEST_GAP) {
      if (this.points.length) this.points.push(null); // The line breaks here.
      if (this.points.length > MOST_POINTS) this.points.shift();
      return null;
    }
    const point = {
      at: sample.at,
      connections: totals.connections,
      waiting: totals.queued,
      waitingBytes: totals.queued_bytes,
      lag,
      busy: (cpu - before.cpu) / elapsed,
    };
    for (const [name, of] of Object.entries(COUNTED)) {
      point[name] = Math.max(0, of(totals) - of(before.totals)) / elapsed;
      point[`${name}Count`] = Math.max(0, of(totals) - of(before.totals));
    }
    this.points.push(point);
    if (this.points.length > MOST_POINTS) this.points.shift();
    return point;
  }

  /** Points of the last so many seconds. */
  last(seconds) {
    const now = this.points.at(-1)?.at ?? 0;
    return this.points.filter((point) => point && point.at > now - seconds);
  }
}
