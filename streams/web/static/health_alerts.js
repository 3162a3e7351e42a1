// The alerts that fire, as the role alerts keeps them.

import { byId, el, fill, plain } from "./dom.js";
import { second, utc } from "./times.js";

const number = new Intl.NumberFormat("en-US");
const SEVERITIES = ["critical", "warning", "info"];
// What is known although nobody decides what fires.
const ROLES = {
  running: "",
  stopped: "The role alerts does not run: no worker is in its group. What fires here did so when it ended. Look at: kubectl -n kubeweir get pods",
  absent: "The role alerts has never run on these topics, so that nothing can fire. docs/operate.md says how to start it.",
  unknown: "Whether the role alerts runs is not known: the page's user of Kafka may not see its groups (docs/kafka-acls.md).",
};
const HIDDEN = ["cluster", "changed_at"];

/** A link to the denied records of what an alert is about; null if it names no namespace. */
function records(group) {
  const namespace = group["subject.namespace"] || group["src.namespace"] || group["dest.namespace"] || group["peer.namespace"];
  if (!namespace) return null;
  return el("a", { href: `/?${new URLSearchParams({ verdict: "deny", namespace })}` }, `Denied records of ${plain(namespace)}`);
}

function firing(alert) {
  const severity = SEVERITIES.includes(alert.severity) ? alert.severity : "other";
  const about = Object.entries(alert.group).filter(([name, value]) => value && !HIDDEN.includes(name)).map(([name, value]) => `${name} ${value}`).join(", ");
  const change = alert.policy ? `${alert.policy} was ${alert.change || "changed"}${alert.changed_by ? ` by ${alert.changed_by}` : ""}. ` : "";
  const at = utc(plain(alert.started)).replace(/Z$/, " UTC");
  const more = [change, alert.description].join("");
  const parts = [
    el("p", {}, el("strong", { class: `severity ${severity}` }, plain(alert.severity || "no severity")), " ", el("strong", { class: "mono" }, plain(alert.rule)), ` ${plain(alert.summary || about)}`),
    more ? el("p", { class: "note" }, plain(more)) : null,
    el("p", { class: "note" }, "Since ", el("time", { datetime: plain(alert.started), title: at }, second(plain(alert.started))), ` (${at})${about && alert.summary ? `, ${plain(about)}` : ""}`),
  ];
  const link = records(alert.group);
  if (link) parts.push(el("p", { class: "note" }, link));
  return el("li", { class: `finding ${severity}` }, ...parts);
}

/** Show what fires. Return how many alerts that are. */
export function showAlerts(found) {
  const count = found.alerts.length + found.left_out;
  const notes = [
    ROLES[found.role] ?? "",
    found.left_out ? `${number.format(found.left_out)} more fire that are not shown: the most urgent and the latest are.` : "",
    found.unread ? `At least ${number.format(found.unread)} more fire, which the page does not keep.` : "",
    found.withheld ? `${number.format(found.withheld)} are not shown, because the API server has not said whether you may see them.` : "",
  ].filter(Boolean);
  byId("alerts-title").textContent = `Alerts that fire (${number.format(count)})`;
  fill(byId("firing"),
    found.alerts.length ? el("ul", { class: "findings" }, ...found.alerts.map(firing)) : el("p", {}, found.role === "absent" ? "" : "None that you may see."),
    ...notes.map((text) => el("p", { class: "note" }, text)));
  byId("alerts").removeAttribute("aria-busy");
  return count;
}

/** Say why it is not known what fires. What was read before stays. Return 0, as many as are known. */
export function sayNoAlerts(text) {
  const note = el("p", { class: "error" }, `What fires is not known: ${plain(text)}`);
  const before = byId("firing").querySelector("ul");
  fill(byId("firing"), before, note);
  byId("alerts").removeAttribute("aria-busy");
  return 0;
}
