// Figures as a person reads them.

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });
const fine = new Intl.NumberFormat("en-US", { maximumFractionDigits: 1 });

/** Up to five digits as they are, then 123.4K. */
export const count = (value) => (value < 100_000 ? whole : short).format(value);

/** Of something a second. */
export const rate = (value) => {
  if (value > 0 && value < 0.05) return "< 0.1";
  return value < 100 ? fine.format(value) : count(value);
};

/** The same for a column: one decimal, so that its figures stand below each other. */
export const steady = (value) => (value >= 0.05 && value < 100 ? value.toFixed(1) : rate(value));

export const exact = (value) => whole.format(value);

export const bytes = (value) => {
  if (value < 1024) return [whole.format(value), "B"];
  const power = Math.min(Math.floor(Math.log2(value) / 10), 4);
  return [fine.format(value / 1024 ** power), ["", "KiB", "MiB", "GiB", "TiB"][power]];
};

export const milliseconds = (seconds) => {
  const value = seconds * 1000;
  if (value < 0.95) return "< 1 ms";
  return value < 10 ? `${fine.format(value)} ms` : `${whole.format(value)} ms`;
};

export const duration = (seconds) => {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  const [h, m] = [Math.floor(s / 3600), Math.floor(s / 60) % 60];
  if (s < 86_400) return m ? `${h} h ${m} min` : `${h} h`;
  const d = Math.floor(h / 24);
  return h % 24 && d < 10 ? `${d} d ${h % 24} h` : `${d} d`;
};

const time = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  fractionalSecondDigits: 3,
});
const moment = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

/** Of a time in milliseconds since 1970. */
export const clock = (at) => time.format(at);
export const date = (at) => moment.format(at);

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;
