// Times in the reader's zone, with UTC beside them.

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
export const isUtc = ["UTC", "Etc/UTC", "GMT", "Etc/GMT"].includes(zone);
export const zoneName = isUtc ? "UTC" : zone;

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const day = new Intl.DateTimeFormat("en-CA", { year: "numeric", month: "2-digit", day: "2-digit" });

const millis = (timestamp) => (timestamp.split(".")[1] || "000").slice(0, 3);

/** The time of a record in the reader's zone; with its day if that is not today. */
export function local(timestamp) {
  const when = new Date(timestamp);
  if (Number.isNaN(when.getTime())) return timestamp;
  const date = day.format(when);
  const prefix = date === day.format(new Date()) ? "" : `${date} `;
  return `${prefix}${clock.format(when)}.${millis(timestamp)}`;
}

/** The same to the second. */
export const second = (timestamp) => local(timestamp).replace(/\.\d+$/, "");

/** The time of a record in UTC. */
export function utc(timestamp) {
  return timestamp.replace("T", " ").replace(/(\.\d{3})\d*Z$/, "$1 UTC");
}

/** A Unix time as a clock shows it. */
export const clockOf = (seconds) => clock.format(new Date(seconds * 1000));

const minuteClock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", hour12: false });

/** A Unix time to the minute, in the reader's zone. */
export const minute = (seconds) => `${day.format(new Date(seconds * 1000))} ${minuteClock.format(new Date(seconds * 1000))}`;

/** The same in UTC. */
export const utcMinute = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ");
