// What the counters of the samples say about time: rates, and their last five minutes.

const MOST_POINTS = 300;
const FEWEST_POINTS = 60;
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
    const { clock, totals, cpu, lag } = sample;
    const before = this.#before;
    const elapsed = before ? clock - before.clock : 0;
    // Samples that follow at once, because something else is looked at, say little about rates.
    if (before && elapsed >= 0 && elapsed < 0.6) return this.points.at(-1) ?? null;
    this.#before = sample;
    const isAnew = !before || elapsed < 0 || totals.publications < before.totals.publications ||
      totals.connections_ever < before.totals.connections_ever;
    if (isAnew || elapsed > LONGEST_GAP) {
      if (isAnew) this.points = [];
      else this.points.push(null);
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

const SVG = "http://www.w3.org/2000/svg";

/** A line over the last one to five minutes, with its newest point at the right edge. */
export class Spark {
  element = document.createElementNS(SVG, "svg");
  #line = document.createElementNS(SVG, "polyline");
  #area = document.createElementNS(SVG, "polygon");

  constructor() {
    this.element.setAttribute("viewBox", "0 0 100 32");
    this.element.setAttribute("preserveAspectRatio", "none");
    this.element.ariaHidden = "true";
    this.element.append(this.#area, this.#line);
  }

  /** Draw the points; `floor` is the least height that the full scale stands for. */
  draw(points, of, floor) {
    const values = points.map((point) => (point ? of(point) : 0));
    const top = Math.max(floor, ...values);
    const slots = Math.max(FEWEST_POINTS, values.length) - 1;
    const at = (index) => 100 - ((values.length - 1 - index) / slots) * 100;
    const line = values
      .map((value, index) => `${at(index).toFixed(2)},${(30.5 - (value / top) * 27).toFixed(2)}`)
      .join(" ");
    this.#line.setAttribute("points", line);
    this.#area.setAttribute("points", line && `${at(0).toFixed(2)},32 ${line} 100,32`);
    return top;
  }
}
