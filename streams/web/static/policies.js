// The view Policies: each policy with the pods that it selects and its last match, and rules that decide nothing.

import { get } from "./api.js";
import { parameters, sayAt, withChanges, writeAddress } from "./choices.js";
import { byId, el, fill, plain } from "./dom.js";
import { startPanel } from "./panel.js";
import { startTrials } from "./policies_trials.js";
import { openSession, sayEmpty, sayRefused, startShell, state } from "./shell.js";
import { second, utc } from "./times.js";
import { noYaml, yamlPart } from "./yaml.js";

const AGAIN_MS = [5_000, 10_000, 30_000, 60_000];
const DEFAULT_SINCE = "7d";
const NAMED = 3;
const STATES = { used: "allow", shadowed: "audit", "adds nothing": "audit", "selects nobody": "audit" };
const number = new Intl.NumberFormat("en-US");
let running = null;
let opened = "";

const since = () => parameters().get("since") || DEFAULT_SINCE;
const namespace = () => parameters().get("namespace") || "";
const question = () => new URLSearchParams({ since: since(), ...(namespace() ? { namespace: namespace() } : {}) });
const keyOf = (one) => `${one.kind}/${one.namespace}/${one.name}`;
const nameOf = (one) => plain(one.namespace ? `${one.namespace}/${one.name}` : one.name);
const badge = (text, kind = "") => el("span", { class: `badge ${kind}` }, text);
const when = (time) => (time ? el("time", { datetime: time, title: utc(time) }, second(time)) : "never in this time");

const panel = startPanel("policy", () => {
  [...document.querySelectorAll(".used tr")].find((one) => one.dataset.key === opened)?.querySelector("button").focus();
  choose("");
});
const trials = startTrials({ question, namespace, show: panel.close });

function choose(key) {
  if (key) opened = key;
  for (const one of document.querySelectorAll(".used tbody tr")) one.classList.toggle("chosen", one.dataset.key === key);
}

function selected(policy) {
  if (policy.selects === null) return "cannot say";
  if (!policy.selects.length) return "no pods";
  const names = policy.selects.map((one) => plain(policy.namespace ? one.split("/").slice(1).join("/") : one));
  return names.slice(0, NAMED).join(", ") + (names.length > NAMED ? ` and ${number.format(names.length - NAMED)} more` : "");
}

/** What is worth a look: how many rules are in each state but used. */
function statesOf(policy) {
  const counts = new Map();
  // Where a policy selects nobody, so does each of its rules.
  for (const rule of policy.rules) if (!["used", "selects nobody"].includes(rule.state)) counts.set(rule.state, (counts.get(rule.state) || 0) + 1);
  const found = [...counts].map(([name, count]) => badge(`${number.format(count)} ${count === 1 ? "rule" : "rules"}: ${name}`, STATES[name]));
  if (policy.audit) found.unshift(badge("audited", "audit"));
  if (policy.selects && !policy.selects.length) found.unshift(badge("selects nobody", "audit"));
  return found.length ? found : [badge(policy.rules.length ? "all rules used" : "no rules", policy.rules.length ? "allow" : "")];
}

function counted(uses) {
  return [[uses.allowed_connections, "allowed"], [uses.denied_packets, "packets denied"], [uses.audited_connections, "audited"]]
    .filter(([count]) => count).map(([count, word]) => `${number.format(count)} ${word}`).join(", ");
}

function line(policy, found) {
  const show = () => open(policy, found);
  const name = el("button", { type: "button", class: "time" }, nameOf(policy));
  return el("tr", { "data-key": keyOf(policy), onclick: show },
    el("td", {}, name, policy.kind === "NetworkPolicy" ? null : el("span", { class: "note" }, ` ${plain(policy.kind)}`)),
    el("td", { class: "mono" }, selected(policy)), el("td", {}, counted(policy) || "nothing"),
    el("td", { class: "when" }, when(policy.last)), el("td", {}, el("span", { class: "states" }, ...statesOf(policy))));
}

function rulePart(rule) {
  const by = rule.by ? `rule ${rule.by.rule} of ${nameOf(rule.by)}` : "another rule";
  const why = { shadowed: `${by} always decides before`, "adds nothing": `${by} allows the same`, "not seen": `since ${second(rule.since)}`, "cannot say": "it was changed in an hour in which it matched" }[rule.state] || "";
  return el("li", {}, badge(rule.state, STATES[rule.state] || ""),
    el("span", {}, `${rule.direction} ${rule.rule}${rule.name ? ` ${plain(rule.name)}` : ""}`),
    el("span", { class: "note" }, [counted(rule), rule.last ? `last ${second(rule.last)}` : "", why].filter(Boolean).join(", ")));
}

function open(policy, found) {
  choose(keyOf(policy));
  const denies = new URLSearchParams({ verdict: "deny", policy: policy.namespace ? `${policy.namespace}/${policy.name}` : policy.name, since: since() });
  const all = policy.selects === null ? "The policy asks for labels that the journal does not keep." : policy.selects.map(plain).join("\n") || "No pods.";
  const change = el("button", { type: "button", onclick: () => trials.edit(policy.yaml) }, "Change it below");
  panel.show([badge(policy.kind), ` ${nameOf(policy)}`],
    el("dl", {}, el("dt", {}, "Selects"), el("dd", { class: "mono" }, all), el("dt", {}, "Decided"), el("dd", {}, counted(policy) || "nothing in this time"),
      el("dt", {}, "Last match"), el("dd", {}, when(policy.last), policy.last ? el("span", { class: "utc" }, utc(policy.last)) : null),
      policy.audit ? el("dt", {}, "Mode") : null, policy.audit ? el("dd", {}, "audit: what it would deny passes, and is logged") : null),
    el("p", {}, el("a", { href: `/?${denies}` }, "Denies that name it"), " in the records of this time"),
    el("section", { class: "card" }, el("h3", {}, "Rules"), policy.rules.length ? el("ul", { class: "rules" }, ...policy.rules.map(rulePart)) : el("p", { class: "note" }, "It has no rules: what it isolates is denied.")),
    el("section", { class: "card" }, el("h3", {}, "Policy"), policy.yaml ? yamlPart(policy.yaml, change) : noYaml()),
    el("p", { class: "note" }, `Only verdicts that are logged can be seen. Cluster ${plain(found.cluster)}, ${utc(found.since)} to ${utc(found.until)}.`));
}

function show(found) {
  const { policies } = found;
  if (!policies?.length) {
    fill(byId("shown"));
    if (found.empty) sayEmpty("It cannot be said how policies were used.", plain(found.empty));
    else if (namespace()) sayEmpty(`${plain(namespace())} has no NetworkPolicies.`, "Only policies of the whole cluster can deny what its pods do. Below, the least policies that allow what was seen can be made.");
    else sayEmpty("There are no policies.", "Every connection is allowed. Choose a namespace, and the least policies that allow what was seen in it can be made below.");
    return;
  }
  const head = ["Policy", "Selects", "Decided", "Last match", "Worth a look"].map((text) => el("th", { scope: "col" }, text));
  fill(byId("shown"), el("div", { class: "wrap", tabindex: "0", role: "region", "aria-label": "Policies" },
    el("table", { class: "used" }, el("caption", { class: "unseen" }, "Policies, and how they were used"), el("thead", {}, el("tr", {}, ...head)),
      el("tbody", {}, ...policies.map((policy) => line(policy, found))))));
  const parts = found.notes.map((note) => `${plain(note)}.`);
  if (found.left_out) parts.push(`${number.format(found.left_out)} further policies are left out: choose a namespace.`);
  byId("notice").textContent = parts.join(" ");
}

function sayWrong(error, isOver) {
  const isAtField = ["namespace", "since"].includes(error.field);
  fill(byId("shown"));
  if (isAtField) {
    sayAt(error.field, plain(error.message));
    sayEmpty("Choose a namespace and a time.");
    state("bad", "Not shown");
  }
  byId("problem").hidden = isAtField || error.status === 401;
  byId("problem").textContent = `${plain(error.message)}${isOver ? "" : " The page asks again."}`;
}

/** Show what the address asks for. */
async function begin() {
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  panel.close();
  trials.clear();
  byId("namespace").value = namespace();
  byId("since").value = since();
  for (const field of ["namespace", "since"]) sayAt(field, "");
  byId("notice").textContent = "";
  byId("problem").hidden = true;
  byId("empty").hidden = true;
  byId("shown").setAttribute("aria-busy", "true");
  state("", "Asking…");
  for (let tries = 0; !signal.aborted; tries += 1) {
    try {
      await openSession({ signal });
      const found = await get(`/api/policies?${question()}`, { signal });
      byId("problem").hidden = true;
      byId("shown").removeAttribute("aria-busy");
      show(found);
      state(found.policies ? "good" : "", found.policies ? `${number.format(found.policies.length + found.left_out)} policies` : "Not known");
      return;
    } catch (error) {
      if (signal.aborted) return;
      // A question that takes too much would take as much again.
      const isOver = sayRefused(error) || error.field !== "";
      byId("shown").removeAttribute("aria-busy");
      sayWrong(error, isOver);
      if (isOver) return;
    }
    await new Promise((done) => setTimeout(done, AGAIN_MS[Math.min(tries, AGAIN_MS.length - 1)]));
  }
}

function applyChoice() {
  const chosen = byId("since").value;
  writeAddress(withChanges({ namespace: byId("namespace").value.trim(), since: chosen === DEFAULT_SINCE ? "" : chosen }), true);
  begin();
}

byId("choose").addEventListener("submit", (event) => {
  event.preventDefault();
  applyChoice();
});
byId("since").addEventListener("change", applyChoice);
addEventListener("popstate", begin);
startShell(begin);
