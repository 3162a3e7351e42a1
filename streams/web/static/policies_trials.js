// What other policies would have done: a backtest of policies that a person pastes or drops, and recommended ones.

import { get, post } from "./api.js";
import { sayAt } from "./choices.js";
import { byId, el, fill, plain } from "./dom.js";
import { second, utc } from "./times.js";
import { yamlPart } from "./yaml.js";

const MAX_BYTES = 1 << 20;
const TOO_LARGE = "Policies may have 1 MiB at most: test fewer.";
const FAILED = 5;
const OUTCOMES = [["newly denied", "deny"], ["newly allowed", "allow"], ["unchanged", ""], ["cannot say", "audit"]];
const number = new Intl.NumberFormat("en-US");
const connections = (count) => `${number.format(count)} ${count === 1 ? "connection" : "connections"}`;

function endText(end) {
  if (end.unknown) return "(not known)";
  if (end.node) return `node ${end.node}`;
  if (end.namespace) return `${end.namespace}/${(end.workload || "").split("/").pop() || "(a pod of its own)"}`;
  if (end.coarse && end.block) return `${end.block} (coarse)`;
  return (end.block || "an unknown address").replace(/\/(32|128)$/, "");
}

function findingPart(found) {
  const [subject, peer] = [endText(found.subject), endText(found.peer)];
  const ends = found.direction === "egress" ? `${subject} → ${peer}` : `${peer} → ${subject}`;
  const { recorded } = found;
  const named = recorded.policies.map((one) => (one.namespace ? `${one.namespace}/${one.name}` : one.name));
  const failed = (found.failed || []).slice(0, FAILED);
  const more = (found.failed || []).length - failed.length;
  return el("li", { class: OUTCOMES.find(([name]) => name === found.outcome)?.[1] || "" },
    el("p", {}, el("strong", { class: "mono" }, plain(ends)), ` ${plain(found.protocol)}${found.port ? `/${found.port}` : ""}, ${found.direction}, ${connections(found.connections)}, last ${second(found.last)}`),
    el("p", { class: "note" }, plain(`recorded: ${recorded.verdict}, ${recorded.reason.replaceAll("_", " ")}${named.length ? ` (${named.join(", ")})` : ""}`)),
    found.text ? el("p", {}, plain(found.text)) : null, ...failed.map((text) => el("p", { class: "note" }, plain(text))),
    more > 0 ? el("p", { class: "note" }, `and ${number.format(more)} more reasons`) : null);
}

function resultParts(found) {
  if (found.empty) return [el("p", { class: "notice" }, `It cannot be said: ${plain(found.empty)}`)];
  const sums = OUTCOMES.map(([name, kind]) => {
    const sum = found.sums[name.replace(" ", "_")];
    return el("li", { class: sum.pairs ? kind : "" }, el("strong", {}, number.format(sum.connections)), ` ${name}`, el("span", { class: "note" }, ` (${number.format(sum.pairs)} different)`));
  });
  const parts = [el("ul", { class: "sums", "aria-label": "Connections" }, ...sums)];
  if (found.newly_audited_connections) parts.push(el("p", { class: "note" }, `${connections(found.newly_audited_connections)} of the unchanged would newly be logged as audited.`));
  for (const [name] of OUTCOMES) {
    const own = found.findings.filter((one) => one.outcome === name);
    if (own.length) parts.push(el("h3", {}, name[0].toUpperCase() + name.slice(1)), el("ul", { class: "found" }, ...own.map(findingPart)));
  }
  if (found.left_out) parts.push(el("p", { class: "note" }, `${number.format(found.left_out)} more are left out: weir backtest -o json lists them.`));
  parts.push(el("p", { class: "note" }, [`From ${utc(found.since)} to ${utc(found.until)}.`, ...found.notes.map((note) => `${plain(note)}.`)].join(" ")));
  return parts;
}

/** Say what a recommendation is worth. */
function proofPart({ proof }) {
  const parts = [el("p", { class: `verdict ${proof.complete ? "allow" : "deny"}` }, proof.complete
    ? `Proof: they allow all of ${connections(proof.allowed.connections)} that were seen allowed, and none that was denied.`
    : `Proof fails: they would deny ${number.format(proof.would_deny.length)} of what was seen allowed, and allow ${number.format(proof.would_allow.length)} of what was denied.`)];
  for (const [name, found] of [["would deny", proof.would_deny], ["would allow", proof.would_allow], ["cannot say", proof.cannot_say]]) {
    for (const one of found.slice(0, FAILED)) parts.push(el("p", { class: "note" }, plain(`${name}: ${one.text}`)));
    if (found.length > FAILED) parts.push(el("p", { class: "note" }, `${name}: and ${number.format(found.length - FAILED)} more`));
  }
  return parts;
}

function recommendedParts(found) {
  if (found.empty) return [el("p", { class: "notice" }, `It cannot be said: ${plain(found.empty)}`)];
  return found.recommended.flatMap((one) => [...proofPart(one),
    one.instead_of.length ? el("p", { class: "note" }, plain(`The proof is for these instead of: ${one.instead_of.join(", ")}`)) : null, yamlPart(one.yaml)]);
}

/** Start both. `question` returns the parameters of a request, and `namespace` the chosen one; `show` closes the panel. */
export function startTrials({ question, namespace, show }) {
  const asking = { tried: null, recommended: null };

  /** Ask, and show the answer in a part of the view; an error is said at a field. */
  const ask = async (part, status, button, request, parts, field) => {
    asking[part]?.abort();
    asking[part] = new AbortController();
    const { signal } = asking[part];
    byId(status).textContent = "Judging what was seen…";
    byId(button).disabled = true;
    try {
      const found = await request(signal);
      fill(byId(part), ...parts(found));
      byId(status).textContent = "Done.";
    } catch (error) {
      if (signal.aborted) return;
      byId(status).textContent = "";
      fill(byId(part));
      if (error.field === field) sayAt(field, plainLines(error.message));
      else fill(byId(part), el("p", { class: "notice bad", role: "alert" }, plain(error.message)));
    } finally {
      if (!signal.aborted) byId(button).disabled = false;
    }
  };
  const plainLines = (text) => text.split("\n").map(plain).join("\n");
  const take = (text) => {
    sayAt("policies", text.length > MAX_BYTES ? TOO_LARGE : "");
    if (text.length <= MAX_BYTES) byId("policies").value = text;
  };

  byId("try").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = byId("policies").value;
    const wrong = !text.trim() ? "Paste a policy in YAML, or drop a file." : new Blob([text]).size > MAX_BYTES ? TOO_LARGE : "";
    sayAt("policies", wrong);
    if (wrong) byId("policies").focus();
    else ask("tried", "try-state", "backtest", (signal) => post(`/api/backtest?${question()}`, text, { signal }), resultParts, "policies");
  });
  byId("recommend").addEventListener("click", () => {
    sayAt("namespace", namespace() ? "" : "Choose a namespace: policies are recommended for one at a time.");
    if (!namespace()) byId("namespace").focus();
    else ask("recommended", "recommend-state", "recommend", (signal) => get(`/api/recommend?${question()}`, { signal }), recommendedParts, "namespace");
  });
  const field = byId("policies");
  field.addEventListener("dragover", (event) => {
    event.preventDefault();
    field.classList.add("over");
  });
  field.addEventListener("dragleave", () => field.classList.remove("over"));
  field.addEventListener("drop", async (event) => {
    field.classList.remove("over");
    const files = [...event.dataTransfer.files];
    if (!files.length) return;
    event.preventDefault();
    if (files.reduce((sum, file) => sum + file.size, 0) > MAX_BYTES) {
      sayAt("policies", TOO_LARGE);
      return;
    }
    try {
      take((await Promise.all(files.map((file) => file.text()))).join("\n---\n"));
    } catch {
      sayAt("policies", "The browser cannot read this: drop files, and no folder.");
    }
  });
  return {
    /** Put a policy where it can be changed. */
    edit: (text) => {
      show();
      take(text);
      field.focus();
      field.scrollIntoView({ block: "center" });
    },
    /** Forget what was answered about another namespace or time. */
    clear: () => {
      for (const [part, status, button] of [["tried", "try-state", "backtest"], ["recommended", "recommend-state", "recommend"]]) {
        asking[part]?.abort();
        fill(byId(part));
        byId(status).textContent = "";
        byId(button).disabled = false;
      }
    },
  };
}
