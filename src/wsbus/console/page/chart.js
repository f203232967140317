// A line over the last minutes, with a scale and an axis of time; pointer and arrows read it.

import { make, say } from "./dom.js";
import { clock } from "./format.js";

const SHORTEST_SPAN = 60;
const LONGEST_SPAN = 900;
const HEIGHT = 32;
const SVG = "http://www.w3.org/2000/svg";

const shape = (name, kind) => {
  const element = document.createElementNS(SVG, name);
  element.setAttribute("class", kind);
  return element;
};

const time = (at) => clock(at * 1000).slice(0, 8);

/** The least round value that is not below: 1, 2 or 5 with zeros, or a power of two. */
export const roundUp = (value, isBinary = false) => {
  if (isBinary) return 2 ** Math.ceil(Math.log2(value));
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * (1 - 1e-9));
};

/** The newest point stands at the right edge. */
export class Chart {
  element = make("figure", "chart");
  #line = shape("polyline", "newest");
  #area = shape("path", "area");
  #earlier = shape("path", "line"); // What stands before the last gap.
  #mark = shape("path", "mark");
  #top = make("span", "scale");
  #from = make("span");
  #to = make("span");
  #reading = make("span", "reading");
  #title;
  #text;
  #isBinary;
  #drawn = []; // Points with their x, oldest first.
  #readAt = null;

  /** `text`: the text of a value; `isBinary`: the scale ends at a power of two. */
  constructor(title, text, isBinary = false) {
    this.#title = title;
    this.#text = text;
    this.#isBinary = isBinary;
    const svg = shape("svg", "");
    svg.setAttribute("viewBox", `0 0 100 ${HEIGHT}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.ariaHidden = "true";
    svg.append(this.#area, this.#line, this.#earlier, this.#mark);
    const axis = make("figcaption", "axis");
    axis.append(this.#from, this.#reading, this.#to);
    this.#reading.role = "status";
    this.element.tabIndex = 0;
    this.element.append(this.#top, svg, axis);
    svg.addEventListener("pointermove", ({ clientX }) => {
      const { left, width } = svg.getBoundingClientRect();
      this.#read(this.#nearest(((clientX - left) / width) * 100, (point) => point.x));
    });
    svg.addEventListener("pointerleave", () => this.#read(null));
    this.element.addEventListener("blur", () => this.#read(null));
    this.element.addEventListener("keydown", (pressed) => this.#step(pressed));
  }

  /** Draw the points, of which null is a gap; `floor`: the least value at the top of the scale. */
  draw(points, of, floor) {
    const known = points.filter(Boolean);
    const now = known.at(-1)?.at ?? 0;
    const span = Math.min(LONGEST_SPAN, Math.max(SHORTEST_SPAN, now - (known[0]?.at ?? now)));
    const top = roundUp(Math.max(floor, ...known.map(of)), this.#isBinary);
    const runs = [[]];
    for (const point of points) {
      if (!point) runs.push([]);
      else if (point.at >= now - span) {
        const x = 100 - ((now - point.at) / span) * 100;
        runs.at(-1).push({ x, y: HEIGHT - 1 - (of(point) / top) * (HEIGHT - 2), at: point.at, value: of(point) });
      }
    }
    this.#trace(runs.filter((run) => run.length));
    say(this.#top, this.#text(top));
    say(this.#from, time(now - span));
    say(this.#to, time(now));
    this.element.ariaLabel = `${this.#title}, from ${time(now - span)}; arrow keys read values`;
    this.#show();
  }

  #trace(runs) {
    this.#drawn = runs.flat();
    const lines = runs.map((run) => run.map(({ x, y }) => `${x.toFixed(2)},${y.toFixed(2)}`).join(" "));
    const areas = runs.map((run, i) =>
      `M${run[0].x.toFixed(2)},${HEIGHT} L${lines[i]} L${run.at(-1).x.toFixed(2)},${HEIGHT}Z`);
    this.#line.setAttribute("points", lines.at(-1) ?? "");
    this.#earlier.setAttribute("d", lines.slice(0, -1).map((line) => `M${line}`).join(""));
    this.#area.setAttribute("d", areas.join(""));
  }

  #nearest(wanted, of) {
    const nearer = (best, point) => (best && Math.abs(of(best) - wanted) <= Math.abs(of(point) - wanted) ? best : point);
    return this.#drawn.reduce(nearer, null);
  }

  #read(point) {
    this.#readAt = point?.at ?? null;
    this.#show();
  }

  #step(pressed) {
    const last = this.#drawn.length - 1;
    const here = this.#drawn.findIndex((point) => point.at === this.#readAt);
    const from = here < 0 ? last + 1 : here;
    const steps = { ArrowLeft: Math.max(0, from - 1), ArrowRight: Math.min(last, from + 1), Home: 0, End: last };
    if (pressed.key === "Escape") this.#read(null);
    if (steps[pressed.key] === undefined || last < 0) return;
    pressed.preventDefault();
    this.#read(this.#drawn[steps[pressed.key]]);
  }

  /** What is read stays at its time while the line moves on. */
  #show() {
    const point = this.#readAt === null ? null : this.#nearest(this.#readAt, ({ at }) => at);
    this.element.classList.toggle("is-read", Boolean(point));
    say(this.#reading, point ? `${this.#text(point.value)} at ${time(point.at)}` : "");
    this.#mark.setAttribute("d", point ? `M${point.x.toFixed(2)},0V${HEIGHT}` : "");
  }
}
