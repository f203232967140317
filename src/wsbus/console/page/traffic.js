// What the counters of the samples say about time: rates, and their last five minutes.

const MOST_POINTS = 300;
const SHORTEST_SPAN = 60;
const LONGEST_SPAN = 900;
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

const SVG = "http://www.w3.org/2000/svg";

/** A line over the last minutes, by time, with its newest point at the right edge. */
export class Spark {
  element = document.createElementNS(SVG, "svg");
  #line = document.createElementNS(SVG, "polyline");
  #area = document.createElementNS(SVG, "path");
  #earlier = document.createElementNS(SVG, "path"); // What stands before the last gap.

  constructor() {
    this.element.setAttribute("viewBox", "0 0 100 32");
    this.element.setAttribute("preserveAspectRatio", "none");
    this.element.ariaHidden = "true";
    this.#earlier.setAttribute("class", "line");
    this.element.append(this.#area, this.#line, this.#earlier);
  }

  /** Draw the points; `floor` is the least height that the full scale stands for. */
  draw(points, of, floor) {
    const known = points.filter(Boolean);
    const top = Math.max(floor, ...known.map(of));
    const now = known.at(-1)?.at ?? 0;
    const span = Math.min(LONGEST_SPAN, Math.max(SHORTEST_SPAN, now - (known[0]?.at ?? now)));
    const runs = [[]];
    for (const point of points) {
      if (!point) runs.push([]);
      else if (point.at >= now - span) {
        const x = 100 - ((now - point.at) / span) * 100;
        runs.at(-1).push([x.toFixed(2), (30.5 - (of(point) / top) * 27).toFixed(2)]);
      }
    }
    const drawn = runs.filter((run) => run.length);
    const lines = drawn.map((run) => run.map((pair) => pair.join(",")).join(" "));
    this.#line.setAttribute("points", lines.at(-1) ?? "");
    this.#earlier.setAttribute("d", lines.slice(0, -1).map((line) => `M${line}`).join(""));
    const areas = drawn.map((run, i) => `M${run[0][0]},32 L${lines[i]} L${run.at(-1)[0]},32Z`);
    this.#area.setAttribute("d", areas.join(""));
    return top;
  }
}
