// The table of records: one line each, the newest first, and denies before allows if the reader wants it so.

import { byId, el, plain } from "./dom.js";
import { isUtc, local, utc } from "./times.js";

const KEPT = 200;
const DRAW_MS = 400;
const RANK = { deny: 0, audit: 1 };
const WORDS = { deny: "denied", audit: "audited", allow: "allowed" };

/** An end as people read it: NAMESPACE/POD, else its address, else its node. */
export function endOf(flow, side) {
  const end = flow[side];
  const ip = flow.connection[`${side}_ip`] || "";
  if (end.pod_name) return { text: `${end.namespace}/${end.pod_name}`, space: end.namespace, name: end.pod_name, ip };
  if (end.ambiguous) return { text: ip || "?", note: "not certain which pod", ip };
  if (end.node_name) return { text: end.node_name, note: "node", ip };
  return { text: ip || "-", note: end.service ? `${end.service.namespace}/${end.service.name}` : "outside", ip };
}

export function portOf(flow) {
  const { dest_port: port, protocol } = flow.connection;
  if (port) return `${port}/${protocol}`;
  return flow.icmp ? `${protocol} ${flow.icmp.type}` : protocol || "-";
}

export function whyOf(flow) {
  const named = [...flow.policies, ...flow.isolated_by].map((one) => (one.namespace ? `${one.namespace}/${one.name}` : one.name));
  return { reason: flow.reason.replaceAll("_", " "), policies: [...new Set(named)] };
}

export function badge(flow) {
  return el("span", { class: `badge ${flow.disposition in WORDS ? flow.disposition : "other"}` }, WORDS[flow.disposition] || plain(flow.disposition));
}

export function startLines(open) {
  const body = byId("records").tBodies[0];
  let kept = [];
  const byKey = new Map();
  let pending = false;
  let drawn = 0;
  let chosen = "";

  const line = (flow) => {
    const [source, destination, why] = [endOf(flow, "src"), endOf(flow, "dest"), whyOf(flow)];
    const show = () => open(flow);
    const time = el("button", { type: "button", class: "time", title: utc(flow.timestamp), onclick: (event) => {
      event.stopPropagation();
      show();
    } }, local(flow.timestamp));
    const label = `${WORDS[flow.disposition] || ""}: ${source.text} to ${destination.text}, ${portOf(flow)}`;
    time.setAttribute("aria-label", plain(`${local(flow.timestamp)}, open the record, ${label}`));
    return el("tr", { class: flow.disposition in WORDS ? flow.disposition : "other", "data-id": flow.id, onclick: show },
      el("td", { class: "when" }, time, isUtc ? null : el("span", { class: "utc" }, utc(flow.timestamp).slice(11, 19), "Z")),
      el("td", {}, badge(flow), flow.count > 1 ? el("span", { class: "times" }, ` ×${flow.count}`) : null),
      cell(source), cell(destination), el("td", { class: "mono port" }, plain(portOf(flow))),
      el("td", { class: "why" }, el("span", { class: "reason" }, plain(why.reason)),
        ...why.policies.slice(0, 2).map((name) => el("span", { class: "policy mono" }, plain(name))),
        why.policies.length > 2 ? el("span", { class: "note" }, `and ${why.policies.length - 2} more`) : null));
  };
  const cell = (end) => el("td", { class: "end" },
    end.space ? el("span", { class: "space" }, `${plain(end.space)}/`) : null,
    el("span", { class: "pod" }, plain(end.name || end.text)),
    end.note ? el("span", { class: "note" }, plain(end.note)) : null);

  const newest = (one, other) => (one.timestamp < other.timestamp ? 1 : one.timestamp > other.timestamp ? -1 : 0);
  const denies = (one, other) => (RANK[one.disposition] ?? 2) - (RANK[other.disposition] ?? 2);
  const trim = () => {
    // The oldest go, whatever they are: else old denies would leave no room for new records.
    kept.sort(newest);
    for (const gone of kept.splice(KEPT)) byKey.delete(gone.id);
  };
  const draw = () => {
    pending = false;
    drawn = Date.now();
    const focused = document.activeElement?.closest?.("tr")?.dataset.id;
    trim();
    const ordered = byId("first").checked ? [...kept].sort(denies) : kept;
    const wanted = ordered.map((flow) => {
      const found = byKey.get(flow.id);
      if (found.line === null) found.line = line(flow);
      return found.line;
    });
    let at = body.firstElementChild;
    for (const one of wanted) {
      if (at === one) at = at.nextElementSibling;
      else body.insertBefore(one, at);
    }
    while (at) {
      const gone = at;
      at = at.nextElementSibling;
      gone.remove();
    }
    for (const one of wanted) one.classList.toggle("chosen", one.dataset.id === chosen);
    if (focused) byKey.get(focused)?.line?.querySelector("button").focus({ preventScroll: true });
  };
  const soon = () => {
    // At once after a pause, and not more often than an eye follows.
    if (!pending) setTimeout(() => requestAnimationFrame(draw), Math.max(0, drawn + DRAW_MS - Date.now()));
    pending = true;
  };
  byId("first").addEventListener("change", soon);
  body.addEventListener("keydown", (event) => {
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    const next = step && event.target.closest("tr")?.[step]?.querySelector("button");
    if (next) {
      event.preventDefault();
      next.focus();
    }
  });
  return {
    add: (flows) => {
      for (const flow of flows) {
        if (byKey.has(flow.id)) continue;
        byKey.set(flow.id, { line: null });
        kept.push(flow);
      }
      // A tab in the background draws nothing, for hours.
      if (kept.length > 4 * KEPT) trim();
      if (flows.length) soon();
    },
    clear: () => {
      kept = [];
      byKey.clear();
      soon();
    },
    choose: (id) => {
      chosen = id;
      soon();
    },
    focus: (id) => byKey.get(id)?.line?.querySelector("button").focus(),
    get count() {
      return kept.length;
    },
  };
}
