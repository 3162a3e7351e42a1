// What `weir status` says: whether every decision is in the log, and what nodes and workers need. Each fault with what to do.

import { get } from "./api.js";
import { byId, el, fill, plain } from "./dom.js";
import { sayNoAlerts, showAlerts } from "./health_alerts.js";
import { openSession, sayRefused, startShell, state } from "./shell.js";
import { clockOf } from "./times.js";

const EVERY_MS = 15_000;
const OLD_WATCH_S = 120;
const FULL = 0.8;
const number = new Intl.NumberFormat("en-US");
// As docs/status.md has it.
const TODO = {
  silent: "Does its probe run, does it reach Kafka, do workers lag? If the node is gone on purpose: weir status --without NODE.",
  no_tally: "Upgrade its probe.",
  gap: "Was a topic deleted, or did a broker lose its disk? An unreadable batch is a dead letter, too: weir dead list.",
  gap_unknown: "Were the offsets of the workers' group set by hand?",
  not_counted: "Was the topic of checkpoints deleted?",
  nowhere: "Look into the probe's log for damaged segments. Else it is a bug, or somebody writes false records: keep what weir status prints, and report it.",
  twice: "A bug, or somebody writes false records: keep what weir status prints, and report it.",
  not_finished: "A bug, or somebody writes false records: keep what weir status prints, and report it.",
};
let running = null;
let timer = 0;

const since = () => new URLSearchParams(location.search).get("since") || "1h";

function table(caption, headings, rows) {
  const head = el("tr", {}, ...headings.map((text) => el("th", { scope: "col" }, text)));
  const body = rows.map((cells) => el("tr", {}, ...cells.map((cell, at) =>
    at ? el("td", {}, cell) : el("th", { scope: "row", class: "mono" }, cell))));
  return el("div", { class: "wrap", tabindex: "0", role: "region", "aria-label": caption },
    el("table", { class: "plain" }, el("caption", {}, caption), el("thead", {}, head), el("tbody", {}, ...body)));
}

/** The kind of which the API server has sent nothing for the longest time. */
function watchOf(node) {
  const [kind, age] = Object.entries(node.state.watch).sort((one, other) => other[1] - one[1])[0] || ["", 0];
  return { kind, age };
}

function fullestOf(node) {
  const share = ([, [used, fit]]) => used / Math.max(fit, 1);
  const found = Object.entries(node.state.capacity).sort((one, other) => share(other) - share(one))[0];
  return found ? { map: found[0], used: found[1][0], fit: found[1][1], share: share(found) } : null;
}

function finding(title, text, todo) {
  return el("li", { class: "finding" }, el("p", {}, el("strong", { class: "mono" }, plain(title)), ` ${plain(text)}`), el("p", { class: "note" }, plain(todo)));
}

/** Everything that somebody must do something about. */
function findings(report) {
  const found = report.problems.map((one) => finding(one.node, one.text, TODO[one.reason] || "Keep what weir status prints, and report it."));
  for (const node of report.nodes) {
    const [watch, fullest] = [watchOf(node), fullestOf(node)];
    if (watch.age > OLD_WATCH_S) found.push(finding(node.node, `The API server has sent nothing about ${watch.kind} for ${number.format(Math.round(watch.age))} s.`, "Policies of earlier stay in force. Does the node reach the API server? The probe's log says why not."));
    if (fullest && fullest.share >= FULL) found.push(finding(node.node, `The map ${fullest.map} has ${number.format(fullest.used)} of ${number.format(fullest.fit)} entries.`, "Make it larger before it is full: docs/settings.md has the sizes of maps."));
    if (node.state.unenforced_pods) {
      const named = Object.entries(node.state.unenforced).map(([pod, why]) => `${pod}: ${why}`);
      found.push(finding(node.node, `Pods whose policy is not enforced: ${number.format(node.state.unenforced_pods)}. ${named.join("; ")}`, "docs/troubleshooting.md says what each reason means."));
    }
    for (const [what, value] of Object.entries(node.state.suspicious)) found.push(finding(node.node, `${what}: ${JSON.stringify(value)} asks for nothing.`, "The value of an annotation about logging must be true."));
  }
  for (const one of report.failed_routes) found.push(finding(one.topic, `A route cannot write here, so that its records are dropped: ${one.error}`, "Does the topic exist, and has the worker the right to write to it?"));
  for (const one of report.consumers.filter((group) => group.error)) found.push(finding(one.group, one.error, "How far this group has come is not known."));
  for (const text of report.unknown) found.push(finding("not known:", text, "The page's user of Kafka needs the rights of a reader: docs/kafka-acls.md."));
  return found;
}

function nodeRow(node, several, problems) {
  const { stages } = node;
  const [watch, fullest] = [watchOf(node), fullestOf(node)];
  const own = problems.filter((one) => one.node === node.node && one.cluster === node.cluster && one.stage !== "silence");
  const missing = own.reduce((sum, one) => sum + one.count, 0);
  return [
    plain(several ? `${node.cluster}/${node.node}` : node.node),
    `${node.as_of.slice(11, 19)} UTC${node.silent ? ", silent" : ""}`,
    number.format(stages.kernel.total[1]), number.format(stages.arrival.read || 0), number.format(stages.flows.written || 0),
    number.format(missing), number.format(node.state.unenforced_pods),
    fullest ? `${plain(fullest.map)} ${Math.round(fullest.share * 100)} %` : "-",
    watch.kind ? `${plain(watch.kind)} ${number.format(Math.round(watch.age))} s` : "-", plain(node.state.version || "-"),
  ];
}

function show(report, alerts) {
  const todo = findings(report);
  const several = new Set(report.nodes.map((node) => node.cluster)).size > 1;
  const parts = [];
  if (!report.nodes.length) {
    parts.push(el("div", { class: "empty" }, el("p", { class: "big" }, "No node has given a tally in this time."),
      el("p", {}, "Either no probe runs, or no worker does, or one of them is of an earlier version. Look whether they run:"),
      el("pre", { class: "command", tabindex: "0" }, "kubectl -n kubeweir get pods")));
  } else {
    parts.push(el("p", { class: `verdict ${report.adds_up ? "allow" : "deny"}` }, report.adds_up ? "Every decision of the nodes is in the log, or counted with its reason." : "Not all is accounted for: see below."));
  }
  if (todo.length) parts.push(el("section", { class: "card", "aria-labelledby": "todo" }, el("h2", { id: "todo" }, `What needs you (${number.format(todo.length)})`), el("ul", { class: "findings" }, ...todo)));
  if (report.nodes.length) parts.push(table("Nodes", ["Node", "As of", "Decisions", "Verdicts read", "Records", "Not accounted for", "Pods not enforced", "Fullest map", "Oldest watch", "Version"], report.nodes.map((node) => nodeRow(node, several, report.problems))));
  if (report.consumers.length) parts.push(table("How far workers, sinks and routes are behind", ["Group", "Topic", "Waiting", "Refused"], report.consumers.map((one) => [plain(one.group), plain(one.topic || "-"), one.error ? "not known" : number.format(one.waiting), number.format(one.refused)])));
  const dead = Object.entries(report.dead_letters);
  if (dead.length) parts.push(table("Dead letters: weir dead list shows them", ["Reason", "Count"], dead.map(([reason, count]) => [plain(reason), number.format(count)])));
  fill(byId("report"), ...parts);
  byId("asof").textContent = `As of ${clockOf(Date.now() / 1000)}; asked again every ${EVERY_MS / 1000} s. The same in a terminal: weir status --since ${since()}`;
  const all = todo.length + alerts;
  state(report.nodes.length && report.adds_up && !all ? "good" : "bad", all ? `${number.format(all)} to look at` : report.nodes.length ? "All accounted for" : "Nothing heard");
}

async function begin() {
  clearTimeout(timer);
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  byId("since").value = since();
  let isOver = false;
  let count = 0;
  try {
    await openSession({ signal });
    // Who may not see the whole cluster sees the alerts of some namespaces all the same.
    const alerts = get("/api/alerts", { signal }).then(
      (found) => (signal.aborted ? 0 : showAlerts(found)),
      (error) => (signal.aborted ? 0 : sayNoAlerts(error.message)));
    const [report, found] = await Promise.allSettled([get(`/api/health?${new URLSearchParams({ since: since() })}`, { signal }), alerts]);
    if (signal.aborted) return;
    count = found.value;
    if (report.status === "rejected") throw report.reason;
    byId("kafka").hidden = true;
    byId("report").hidden = false;
    show(report.value, count);
  } catch (error) {
    if (signal.aborted) return;
    isOver = sayRefused(error);
    if (error.status === 403) {
      isOver = false;
      state(count ? "bad" : "", count ? `${number.format(count)} to look at` : "Alerts only");
    }
    byId("report").hidden = error.status === 403;
    byId("kafka").hidden = error.status === 401;
    byId("kafka").textContent = `${plain(error.message)}${isOver || error.status === 403 ? "" : " What was read before stays; the page asks again."}`;
    byId("alerts").removeAttribute("aria-busy");
  }
  byId("report").removeAttribute("aria-busy");
  if (!isOver) timer = setTimeout(begin, EVERY_MS);
}

byId("since").addEventListener("change", () => {
  history.pushState(null, "", `?since=${byId("since").value}`);
  byId("report").setAttribute("aria-busy", "true");
  begin();
});
addEventListener("popstate", begin);
startShell(begin);
