// The live view: it begins with the last records, goes on with what arrives, and says what it does not show.

import { Refused, get, stream } from "./api.js";
import { parameters } from "./choices.js";
import { byId, el, plain } from "./dom.js";
import { startDetail } from "./detail.js";
import { isPast, sayWrong, startFilters } from "./filters.js";
import { startLines } from "./lines.js";
import { openSession, sayEmpty, sayRefused, startShell, state } from "./shell.js";
import { startStrip } from "./strip.js";
import { clockOf, isUtc, zoneName } from "./times.js";

const number = new Intl.NumberFormat("en-US");
const WAIT_MS = [500, 1000, 2000, 5000];

const strip = startStrip();
const lines = startLines((flow) => {
  lines.choose(flow.id);
  opened = flow.id;
  detail.open(flow);
});
const filters = startFilters(() => begin());
const detail = startDetail({ filter: (name, value) => filters.add(name, value), closed: () => {
  lines.choose("");
  lines.focus(opened);
} });
let opened = "";
let running = null;
let paused = [];
let isPaused = false;
let seen = [];
let behind = { at: 0, skipped: 0 };
let cut = { at: 0, why: "" };
let missing = "";

byId("zone").textContent = isUtc ? "Time (UTC)" : `Time (${zoneName})`;
byId("pause").addEventListener("click", pause);
addEventListener("keydown", (event) => {
  const busy = event.target.closest?.("input, select, textarea, button, summary");
  if (event.key === "p" && !busy && !event.ctrlKey && !event.metaKey) pause();
  if (event.key === "/" && !busy) {
    event.preventDefault();
    byId("value").focus();
  }
});

function pause() {
  isPaused = !isPaused;
  byId("pause").setAttribute("aria-pressed", String(isPaused));
  byId("pause").textContent = isPaused ? "Go on" : "Pause";
  if (!isPaused) lines.add(paused.splice(0));
  tell();
}

/** Say how much of what arrives is shown. */
function tell() {
  const now = Date.now();
  seen = seen.filter((one) => now - one.at < 5000);
  const [all, shown, withheld] = ["all", "shown", "withheld"].map((name) => seen.reduce((sum, one) => sum + one[name], 0));
  const parts = missing ? [missing] : [];
  if (isPaused) parts.push(`Paused: ${number.format(paused.length)} new records wait.`);
  if (all > shown) parts.push(`Sampled: about ${number.format(Math.round(shown / 5))} of ${number.format(Math.round(all / 5))} records a second are shown, denies first. The rates above count all.`);
  if (withheld) parts.push(`${number.format(withheld)} records were left out, because the API server did not say in time whether you may see them.`);
  if (now - behind.at < 60_000) parts.push(`At ${clockOf(behind.at / 1000)}, ${number.format(behind.skipped)} records were left out, in the rates, too: they came faster than the page's server takes them.`);
  if (now - cut.at < 60_000) parts.push(`At ${clockOf(cut.at / 1000)}, the view was cut, and began again. ${plain(cut.why)}`);
  // A screen reader reads what is put there, also if it is the same as before.
  const text = parts.join(" ");
  if (byId("notice").textContent !== text) byId("notice").textContent = text;
}

function showEmpty() {
  byId("empty").hidden = lines.count > 0;
  if (lines.count > 0) return;
  if ([...parameters()].length) {
    sayEmpty("No record fits.", isPast() ? "Choose another time, or remove a filter." : "New ones appear here as they arrive. Or remove a filter, or look further back.");
  } else {
    sayEmpty("No records yet.", "As soon as a pod with a policy talks, its verdicts appear here. If none do:",
      el("pre", { class: "command" }, "weir status"), "says whether probes send and workers enrich.");
  }
}

function takeInterval(data) {
  strip.add(data.counts);
  const all = Object.values(data.counts).reduce((sum, one) => sum + one, 0);
  seen.push({ at: Date.now(), all, shown: data.flows.length, withheld: data.withheld });
  if (isPaused) {
    paused.push(...data.flows);
    paused.splice(0, paused.length - 400);
  } else lines.add(data.flows);
  tell();
  if (data.flows.length) byId("empty").hidden = true;
}

function take(name, data) {
  if (name === "flows") takeInterval(data);
  if (name === "kafka") {
    byId("kafka").hidden = !data.away_since;
    if (data.away_since) byId("kafka").textContent = `Kafka has not answered since ${clockOf(data.away_since)}: ${plain(data.why)}. What was read until then stays; new records appear when it answers again.`;
    state(data.away_since ? "bad" : "good", data.away_since ? "Kafka away" : "Live");
  }
  if (name === "behind") {
    behind = { at: Date.now(), skipped: data.skipped };
    tell();
  }
  if (name === "cut" && data.why) {
    cut = { at: Date.now(), why: data.why };
    tell();
  }
}

/** Begin the view that the address means. */
async function begin() {
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  detail.close();
  lines.clear();
  strip.clear();
  paused = [];
  seen = [];
  missing = "";
  tell();
  byId("kafka").hidden = true;
  byId("empty").hidden = true;
  state("", "Connecting…");
  for (let tries = 0; !signal.aborted; tries += 1) {
    try {
      const session = await openSession({ signal });
      const past = showPast(session, signal);
      if (isPast()) {
        await past;
        state("", "Past");
        return;
      }
      const live = stream(`/api/live?${withoutTimes()}`, (name, data) => {
        tries = 0;
        take(name, data);
      }, signal);
      await Promise.all([past, live]);
      state("", "Connecting again…");
    } catch (error) {
      if (signal.aborted) return;
      if (say(error)) return;
    }
    await new Promise((done) => setTimeout(done, WAIT_MS[Math.min(tries, WAIT_MS.length - 1)]));
  }
}

function withoutTimes() {
  const query = parameters();
  query.delete("since");
  query.delete("until");
  return query;
}

async function showPast(session, signal) {
  try {
    const found = await get(`/api/flows?${parameters()}`, { signal });
    lines.add(found.flows);
    missing = !found.is_whole && parameters().get("since") ? `Only the first ${number.format(session.most)} records of this time are shown: narrow it down.` : "";
    showEmpty();
  } catch (error) {
    // A view without its past goes on with what arrives.
    if (!(error instanceof Refused) || ![0, 503].includes(error.status) || isPast()) throw error;
    missing = `Earlier records are missing here: ${plain(error.message)}`;
  }
  tell();
}

/** Say why there is no view; return true if it makes no sense to try again. */
function say(error) {
  const isOver = sayRefused(error);
  if (error.status === 400) {
    sayWrong(error.field, plain(error.message));
    sayEmpty("This view cannot be shown.", plain(error.message));
  } else if (error.status !== 401) {
    byId("kafka").hidden = false;
    byId("kafka").textContent = plain(error.message);
  }
  return isOver;
}

startShell(begin, strip.redraw);
