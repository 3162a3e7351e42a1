// The map as lists, for those who do not see it or want numbers: connections, namespaces, and one connection in detail.

import { byId, el, fill, plain } from "./dom.js";
import { VERDICTS, inOrder, nameOf, placeOf, worst } from "./map_graph.js";
import { startPanel } from "./panel.js";

const LINES = 200;
const IN_DETAIL = 40;
const WORDS = { deny: "denied", audit: "audited", allow: "allowed", unknown: "not known" };
const number = new Intl.NumberFormat("en-US");

export const badge = (verdict) => el("span", { class: `badge ${verdict in WORDS ? verdict : "other"}` }, WORDS[verdict] || plain(verdict));
const counted = (counts) => VERDICTS.map((verdict, at) => (counts[at] ? `${number.format(counts[at])} ${WORDS[verdict]}` : "")).filter(Boolean).join(", ");
export const textOf = (link) => plain(`${nameOf(link.source)} to ${nameOf(link.destination)}`);

export function startLists({ openLink, toggle }) {
  const body = byId("edges").tBodies[0];

  const end = (node) => el("td", { class: "end" },
    node.name ? el("span", { class: "space" }, `${plain(node.space)}/`) : null,
    el("span", { class: "pod" }, plain(node.name || node.space)),
    node.isGroup && node.namespace ? el("span", { class: "note" }, `${number.format(node.size)} workloads`) : null);
  const line = (link) => {
    const verdict = worst(link);
    const open = el("button", { type: "button", class: "time", "aria-label": `Open ${textOf(link)}, ${WORDS[verdict]}` }, badge(verdict));
    return el("tr", { class: verdict, "data-key": link.key, onclick: () => openLink(link) },
      el("td", {}, open), end(link.source), end(link.destination), el("td", { class: "count" }, counted(link.counts)));
  };

  return {
    /** Show links: what was denied first. */
    show: (links) => {
      const ordered = inOrder(links);
      const focused = document.activeElement?.closest?.("#edges tr")?.dataset.key;
      fill(body, ...ordered.slice(0, LINES).map(line));
      if (focused) [...body.rows].find((one) => one.dataset.key === focused)?.querySelector("button").focus({ preventScroll: true });
      byId("more").textContent = ordered.length > LINES ? `The first ${LINES} of ${number.format(ordered.length)} connections are listed: search for others.` : "";
    },
    choose: (key) => {
      for (const one of body.rows) one.classList.toggle("chosen", one.dataset.key === key);
    },
    focus: (key) => [...body.rows].find((one) => one.dataset.key === key)?.querySelector("button").focus(),
    groups: (groups, closed) => {
      const focused = document.activeElement?.dataset?.group;
      fill(byId("group-list"), ...[...groups.values()].slice(0, LINES).map((group) => el("li", {},
        el("button", { type: "button", class: "mono", "aria-expanded": String(!closed.has(group.key)), "data-group": group.key, onclick: () => toggle(group.key) },
          plain(group.title), el("span", { class: "note" }, ` ${number.format(group.places.length)}`)))));
      if (focused) [...byId("group-list").querySelectorAll("button")].find((one) => one.dataset.group === focused)?.focus();
    },
  };
}

export function startLinkDetail(closed) {
  const panel = startPanel("connection", closed);
  const row = ([direction, port, verdict, reason, policies, verdicts]) => el("li", {},
    badge(verdict), el("span", { class: "mono" }, plain(port || "any port")), el("span", { class: "note" }, `${number.format(verdicts)}, `,
      direction === "egress" ? "decided where it leaves" : "decided where it arrives", `: ${plain(reason.replaceAll("_", " "))}`),
    ...policies.map((name) => el("span", { class: "mono policy" }, plain(name))));
  const nameAt = (answer, index) => {
    const place = placeOf(answer.places[index]);
    return plain(place.name ? `${place.space}/${place.name}` : place.space);
  };
  const edgePart = (answer, index) => {
    const [source, destination, , details, others] = answer.edges[index];
    return el("section", { class: "card" }, el("h3", {}, `${nameAt(answer, source)} → ${nameAt(answer, destination)}`),
      el("ul", { class: "plain-list" }, ...details.map(row)),
      others ? el("p", { class: "note" }, `and ${number.format(others)} verdicts of other ports and policies`) : null);
  };
  return {
    close: panel.close,
    /** Open what one place sent to another. `live` is the address of its records. */
    open: (answer, link, live, span) => {
      const more = link.edges.length - IN_DETAIL;
      panel.show([badge(worst(link)), ` ${plain(nameOf(link.source))} → ${plain(nameOf(link.destination))}`],
        el("dl", {}, el("dt", {}, "Verdicts"), el("dd", {}, counted(link.counts)), el("dt", {}, "Time"), el("dd", {}, span)),
        el("p", { class: "note" }, "Both ends decide about a connection inside the cluster, so that it counts at both. Ports and policies are those of the whole time of the map."),
        ...link.edges.slice(0, IN_DETAIL).map((index) => edgePart(answer, index)),
        more > 0 ? el("p", { class: "note" }, `and ${number.format(more)} more connections: open the namespace to see them`) : null,
        live ? el("p", {}, el("a", { href: live }, "Records of this time")) : null);
    },
  };
}
