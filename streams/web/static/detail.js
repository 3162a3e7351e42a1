// One record: all that it says, both ends, the policies, and why it was decided so by the policies of its time.

import { get } from "./api.js";
import { el, fill, plain } from "./dom.js";
import { badge, endOf, portOf, whyOf } from "./lines.js";
import { startPanel } from "./panel.js";
import { isUtc, local, utc, zoneName } from "./times.js";
import { noYaml, yamlPart } from "./yaml.js";

// Anybody who may write to the topic chooses the id and the time: what people paste must not become another command.
const commandOf = ({ id, timestamp }) => /^[\w.:-]+$/.test(id) && /^[\w.:+-]+$/.test(timestamp)
  ? [el("p", { class: "note" }, "The same in a terminal:"),
    el("pre", { class: "command", tabindex: "0" }, `weir explain '${id}' --since ${timestamp}`)]
  : [];

/** The rule that is missing, if something would allow what was denied. */
const suggestionPart = ({ text, notes, yaml }) => el("section", { class: "card suggestion" }, el("h3", {}, "What would allow it today"),
  el("p", {}, plain(text)), ...notes.map((note) => el("p", { class: "note" }, plain(note))), yaml ? yamlPart(yaml) : null);

export function startDetail({ filter, closed }) {
  let asking = null;
  const panel = startPanel("record", () => {
    asking?.abort();
    closed();
  });

  const facts = (...pairs) => el("dl", {}, ...pairs.filter(([, value]) => value).flatMap(([name, value]) => [
    el("dt", {}, name), el("dd", { class: "mono" }, typeof value === "string" ? plain(value) : value)]));
  const choose = (name, value) => el("button", { type: "button", class: "link mono", title: `Show only this ${name}`,
    onclick: () => filter(name, value) }, plain(value));
  const endPart = (flow, side, name) => {
    const [end, found] = [flow[side], endOf(flow, side)];
    const labels = Object.entries(end.labels || {}).map(([key, value]) => `${key}=${value}`);
    return el("section", { class: "card" }, el("h3", {}, name), facts(
      ["Pod", end.pod_name ? choose("pod", `${end.namespace}/${end.pod_name}`) : ""],
      ["Namespace", end.namespace ? choose("namespace", end.namespace) : ""],
      ["Workload", end.workload_name ? choose("workload", `${end.workload_kind}/${end.workload_name}`) : ""],
      ["Address", found.ip], ["Node", end.node_name], ["Zone", end.zone],
      ["Service", end.service ? `${end.service.namespace}/${end.service.name}` : ""],
      ["Labels", labels.join("\n")], ["Note", found.note || ""]));
  };

  const open = async (flow) => {
    asking?.abort();
    asking = new AbortController();
    const { signal } = asking;
    const explained = el("div", { class: "explained", "aria-busy": "true" }, el("p", { class: "note" }, "Asking what the policies of that time said…"));
    const policies = el("div", { class: "parts" });
    const [source, destination, why] = [endOf(flow, "src"), endOf(flow, "dest"), whyOf(flow)];
    panel.show([badge(flow), ` ${plain(source.text)} → ${plain(destination.text)}`],
      facts([isUtc ? "Time" : `Time (${zoneName})`, isUtc ? utc(flow.timestamp) : local(flow.timestamp)], ["UTC", isUtc ? "" : utc(flow.timestamp)],
        ["Port", portOf(flow)], ["Dialled", flow.dialled ? `${flow.dialled.ip}:${flow.dialled.port}` : ""],
        ["Direction", flow.connection.direction], ["Count", flow.count > 1 ? `${flow.count}, until ${utc(flow.last_timestamp)}` : ""],
        ["Reason", why.reason], ["Policies", why.policies.length ? el("span", { class: "list" }, ...why.policies.map((name) => choose("policy", name))) : ""],
        ["Node", flow.node_name]),
      el("div", { class: "ends" }, endPart(flow, "src", "Source"), endPart(flow, "dest", "Destination")),
      el("section", { class: "card" }, el("h3", {}, "Why"), explained,
        ...commandOf(flow)),
      policies,
      el("details", { class: "card" }, el("summary", {}, "The whole record"), el("pre", { class: "json", tabindex: "0" }, JSON.stringify(flow, null, 2).split("\n").map(plain).join("\n"))));
    try {
      const found = await get(`/api/explain?${new URLSearchParams({ id: flow.id, at: flow.timestamp })}`, { signal });
      const lines = found.lines.map(([depth, style, text]) => el("p", { class: `depth-${Math.min(depth, 6)} ${["bold", "dim", "yellow", "green", "red"].includes(style) ? style : ""}` }, plain(text)));
      fill(explained, ...(lines.length ? lines : [el("p", { class: "note" }, plain(found.why))]));
      fill(policies, found.suggestion ? suggestionPart(found.suggestion) : null, ...found.policies.map(({ name, yaml, note }) => el("details", { class: "card" },
        el("summary", {}, "Policy ", el("span", { class: "mono" }, plain(name)), ", as it was then"),
        note ? el("p", { class: "note" }, plain(note)) : null, yaml ? yamlPart(yaml) : note ? null : noYaml())));
    } catch (error) {
      if (error.name !== "AbortError") fill(explained, el("p", { class: "error" }, plain(error.message)));
    } finally {
      explained.removeAttribute("aria-busy");
    }
  };
  return { open, close: panel.close };
}
