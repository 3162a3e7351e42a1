// The view Map: who talked to whom in some time, and what was decided. The address has all that is chosen.

import { get } from "./api.js";
import { parameters, sayAt, sayWrongTime, showTimes, showVerdicts, startTimes, startVerdicts, withChanges, writeAddress } from "./choices.js";
import { byId, el, plain } from "./dom.js";
import { startCanvas } from "./map_canvas.js";
import { makeGraph, matches, nameOf, readGroups } from "./map_graph.js";
import { layOut } from "./map_layout.js";
import { startLinkDetail, startLists } from "./map_lists.js";
import { startSpan } from "./map_span.js";
import { openSession, sayEmpty, sayRefused, startShell, state } from "./shell.js";

const number = new Intl.NumberFormat("en-US");
const OPEN_UP_TO = 1200;
const AGAIN_MS = [5_000, 10_000, 30_000, 60_000];
const TIMES = ["since", "until"];

let answer = null;
let groups = new Map();
let graph = null;
let circles = new Map();
const spots = new Map();
const closed = new Set();
let chosen = "";
let running = null;
let pending = 0;

const canvas = startCanvas(byId("map"), {
  choose: (node, title) => (title ? choose("") : choose(node?.id === chosen ? "" : node?.id || "")),
  toggle,
  hover: showTip,
  dropped: (nodes) => {
    for (const node of nodes) spots.set(node.id, [node.x, node.y]);
  },
});
const span = startSpan(() => {
  const [begin, end] = span.times();
  remember(span.isWhole ? { from: "", to: "" } : { from: iso(begin), to: iso(end) });
  soon();
});
const lists = startLists({ openLink, toggle });
const detail = startLinkDetail(() => {
  canvas.look({ chosenLink: "" });
  lists.choose("");
  lists.focus(opened);
});
let opened = "";
const iso = (seconds) => `${new Date(seconds * 1000).toISOString().slice(0, 16)}Z`;

/** Note in the address what is chosen, so that a link is a view. */
const remember = (changes, isNew = false) => writeAddress(withChanges(changes), isNew);

/** Draw again what the slider chooses, at most once a frame. */
function soon() {
  pending ||= requestAnimationFrame(() => {
    pending = 0;
    refresh();
  });
}

function refresh() {
  if (!answer?.edges.length) return;
  const verdict = parameters().get("verdict") || "";
  graph = makeGraph(answer, groups, { ...span.steps, verdict, closed });
  for (const node of graph.nodes.values()) [node.x, node.y] = spots.get(node.id) || [0, 0];
  if (chosen && !graph.nodes.has(chosen)) {
    // Its namespace was closed. All of the map would be faint, because nothing belongs to what is chosen.
    chosen = "";
    canvas.look({ chosen });
  }
  canvas.show(graph, circles);
  list();
}

/** Lay out all of the answer, so that the slider moves nothing. */
function arrange() {
  const whole = makeGraph(answer, groups, { from: 0, to: answer.steps, verdict: "", closed });
  circles = layOut(whole, groups, closed, circles);
  spots.clear();
  for (const node of whole.nodes.values()) spots.set(node.id, [node.x, node.y]);
  lists.groups(groups, closed);
  byId("fold").setAttribute("aria-pressed", String(closed.size === groups.size));
  refresh();
}

function list() {
  const search = searched();
  const found = graph.links.filter(({ source, destination }) => (!chosen || source.id === chosen || destination.id === chosen)
    && (!search || matches(source, search) || matches(destination, search)));
  lists.show(found);
  lists.choose(opened);
  const places = search ? [...graph.nodes.values()].filter((node) => matches(node, search)).length : 0;
  const parts = [];
  if (search) parts.push(places ? `${number.format(places)} found.` : "Nothing has this name.");
  if (chosen) parts.push(`Connections of ${plain(nameOf(graph.nodes.get(chosen)))} are listed.`);
  byId("found").textContent = parts.join(" ");
  byId("map").setAttribute("aria-label", `Map of ${number.format(found.length)} connections between ${number.format(graph.nodes.size)} places`);
}

const searched = () => byId("search").value.trim().toLowerCase();

function choose(id) {
  chosen = id;
  canvas.look({ chosen, chosenLink: "" });
  list();
}

function openLink(link) {
  opened = link.key;
  lists.choose(link.key);
  canvas.look({ chosenLink: link.key });
  detail.open(answer, link, liveAddress(link), span.text());
}

/** The address of the records between two places, as far as filters of records can say it. */
function liveAddress({ source, destination }) {
  const [begin, end] = span.times();
  const query = new URLSearchParams({ since: iso(begin) });
  if (end * 1000 < Date.now()) query.set("until", iso(end));
  const ends = [source, destination];
  const known = ends.find((node) => node.path && node.namespace) || ends.find((node) => node.namespace);
  if (!known) return "";
  query.set("namespace", known.namespace);
  if (known.path) query.set("workload", known.path);
  return `/?${query}`;
}

function toggle(key) {
  if (closed.has(key)) closed.delete(key);
  else closed.add(key);
  rememberClosed();
  arrange();
}

/** Groups are open unless there are very many places. The address says how most of them are, and names the others. */
function rememberClosed() {
  const isFolded = closed.size * 2 > groups.size;
  const others = [...groups.keys()].filter((key) => closed.has(key) !== isFolded);
  remember({ groups: isFolded ? "closed" : "open", except: others.slice(0, 50).join(",") });
}

function readClosed() {
  const query = parameters();
  const isFolded = query.get("groups") ? query.get("groups") === "closed" : answer.places.length > OPEN_UP_TO;
  const others = (query.get("except") || "").split(",");
  closed.clear();
  for (const key of groups.keys()) if (others.includes(key) !== isFolded) closed.add(key);
}

function showTip({ node, title }, x, y) {
  const tip = byId("tip");
  tip.hidden = !node && !title;
  byId("map").classList.toggle("on-place", Boolean(node || title));
  if (tip.hidden) return;
  tip.textContent = plain(node ? `${nameOf(node)}${node.isGroup ? `: ${number.format(node.size)} places, double-click opens` : ""} · ${number.format(node.total)} verdicts` : "Double-click closes the namespace, a drag moves it");
  const frame = byId("map").clientWidth;
  tip.style.left = `${Math.min(x + 12, Math.max(8, frame - 260))}px`;
  tip.style.top = `${y + 14}px`;
}

function showEmpty(text, ...more) {
  byId("shown").hidden = true;
  sayEmpty(text, ...more);
}

function take(found) {
  answer = found;
  groups = readGroups(answer);
  graph = null;
  circles = new Map();
  chosen = opened = "";
  byId("found").textContent = "";
  byId("notice").textContent = answer.notes.map((one) => `${plain(one[0].toUpperCase() + one.slice(1))}.`).join(" ");
  if (answer.empty) {
    showEmpty("No connections were counted in this time.", plain(answer.empty), "Workers count connections only with this setting, and the map shows them a minute later:",
      el("pre", { class: "command" }, "WEIR_PAIRS=1"));
    return;
  }
  if (!answer.edges.length) {
    showEmpty("There are no connections in this time that you may see.", "Choose another time. Only connections of pods with a policy are counted.");
    return;
  }
  byId("empty").hidden = true;
  byId("shown").hidden = false;
  readClosed();
  span.take(answer, ...["from", "to"].map((name) => Date.parse(parameters().get(name)) / 1000 || 0));
  arrange();
  canvas.look({ chosen: "", chosenLink: "", search: searched() });
  canvas.fit();
  performance.mark("map-shown");
}

function showControls() {
  const query = parameters();
  showVerdicts(query.get("verdict") ? [query.get("verdict")] : []);
  showTimes(query);
  byId("search").value = query.get("search") || "";
  for (const name of TIMES) sayAt(name, "");
}

/** Ask for the map that the address means, and show it. */
async function begin() {
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  detail.close();
  showControls();
  byId("problem").hidden = true;
  byId("notice").textContent = "";
  for (let tries = 0; !signal.aborted; tries += 1) {
    state("", "Reading…");
    try {
      await openSession({ signal });
      const query = new URLSearchParams([...parameters()].filter(([name]) => TIMES.includes(name)));
      take(await get(`/api/map?${query}`, { signal }));
      byId("problem").hidden = true;
      state("good", "Past");
      return;
    } catch (error) {
      if (signal.aborted) return;
      const isOver = sayRefused(error);
      if (error.status === 400) {
        sayWrongTime(error.field || "since", plain(error.message));
        showEmpty("This map cannot be shown.", plain(error.message));
      } else if (error.status !== 401) {
        byId("problem").hidden = false;
        byId("problem").textContent = `${plain(error.message)}${isOver ? "" : " The page tries again."}`;
      }
      if (isOver) return;
    }
    await new Promise((done) => setTimeout(done, AGAIN_MS[Math.min(tries, AGAIN_MS.length - 1)]));
  }
}

function startControls() {
  startVerdicts((verdict) => {
    remember({ verdict }, true);
    showControls();
    refresh();
  });
  startTimes((times) => {
    remember({ ...times, from: "", to: "" }, true);
    begin();
  });
  byId("search").addEventListener("input", () => {
    remember({ search: byId("search").value.trim() });
    if (!graph) return;
    canvas.look({ search: searched() });
    list();
  });
  byId("closer").addEventListener("click", () => canvas.zoom(1.4));
  byId("farther").addEventListener("click", () => canvas.zoom(1 / 1.4));
  byId("fit").addEventListener("click", canvas.fit);
  byId("fold").addEventListener("click", () => {
    const isFolded = closed.size === groups.size;
    closed.clear();
    if (!isFolded) for (const key of groups.keys()) closed.add(key);
    rememberClosed();
    circles = new Map();
    arrange();
    canvas.fit();
  });
  addEventListener("popstate", begin);
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.closest?.("input, select, textarea")) return;
    event.preventDefault();
    byId("search").focus();
  });
}

startControls();
startShell(begin, () => {
  canvas.recolor();
  span.redraw();
});
