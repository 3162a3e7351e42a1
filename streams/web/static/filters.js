// The filters of the view. They are in the address, so that a link is a view: ?namespace=shop&not.port=53.

import { parameters, sayAt, sayWrongTime, showTimes, showVerdicts, startTimes, startVerdicts, withChanges, writeAddress } from "./choices.js";
import { byId, el, fill, plain } from "./dom.js";

const FIELDS = {
  namespace: ["namespace", "of either end: shop, or team-*"],
  pod: ["pod", "at either end: web-0, or shop/web-*"],
  workload: ["workload", "what runs the pod at either end: Deployment/web"],
  from: ["from", "a pod, an address, or a network: 10.0.0.0/8"],
  to: ["to", "a pod, an address, or a network: 10.0.0.0/8"],
  port: ["port", "the destination port, or the one that was dialled: 443"],
  policy: ["policy", "that decided or isolates the pod: shop/web-allow-api"],
  reason: ["reason", "why it was decided so: default_deny, policy, node"],
  protocol: ["protocol", "tcp, udp, icmp, or an IANA number"],
  service: ["service", "that was dialled: shop/api"],
  label: ["label", "of either end: app=web"],
  cidr: ["address", "of either end: 10.0.0.7, or fd00::/64"],
  subject: ["subject", "the pod whose policy decided: shop/web-0"],
  direction: ["direction", "ingress or egress, as that pod sees it"],
  node: ["node", "that decided"],
  cluster: ["cluster", "where several share the topics"],
  id: ["id", "of the record: RING-NUMBER"],
};

/** Whether the view ends at a time, so that nothing new can come. */
export const isPast = () => Boolean(parameters().get("until"));

export function startFilters(changed) {
  const apply = (query) => {
    writeAddress(query, true);
    show();
    changed();
  };
  byId("field").append(...Object.entries(FIELDS).map(([value, [name]]) => el("option", { value }, name)));
  const hint = () => (byId("value-hint").textContent = FIELDS[byId("field").value][1]);
  byId("field").addEventListener("change", hint);
  hint();
  byId("add").addEventListener("submit", (event) => {
    event.preventDefault();
    const value = byId("value").value.trim();
    if (!value) {
      sayAt("value", `Write a ${FIELDS[byId("field").value][0]}: ${FIELDS[byId("field").value][1]}`);
      return;
    }
    const query = parameters();
    query.append(byId("not").value + byId("field").value, value);
    byId("value").value = "";
    apply(query);
  });
  startVerdicts((verdict) => apply(withChanges({ verdict })));
  startTimes((times) => apply(withChanges(times)));
  addEventListener("popstate", () => {
    show();
    changed();
  });
  const remove = (name, value) => {
    const query = parameters();
    query.delete(name, value);
    apply(query);
    byId("value").focus();
  };
  const show = () => {
    const query = parameters();
    showVerdicts(query.getAll("verdict"));
    const others = [...query].filter(([name]) => !["verdict", "since", "until"].includes(name));
    fill(byId("chips"), ...others.map(([name, value]) => chip(name, value, remove)));
    showTimes(query);
    for (const field of ["value", "since", "until"]) sayAt(field, "");
  };
  show();
  return {
    add: (name, value) => {
      const query = parameters();
      if (!query.getAll(name).includes(value)) query.append(name, value);
      apply(query);
    },
  };
}

function chip(name, value, remove) {
  const field = name.replace(/^not\./, "");
  const words = `${name.startsWith("not.") ? "not " : ""}${(FIELDS[field] || [field])[0]}`;
  return el("li", { class: "chip", "data-name": name },
    el("span", { class: "chip-name" }, plain(words)), el("span", { class: "mono" }, plain(value)),
    el("button", { type: "button", "aria-label": `Remove the filter ${plain(words)} ${plain(value)}`,
      onclick: () => remove(name, value) }, "×"));
}

/** Say what is wrong at the filter that has it. */
export function sayWrong(field, text) {
  if (field === "since" || field === "until") {
    sayWrongTime(field, text);
    return;
  }
  sayAt("value", text);
  for (const one of byId("chips").children) one.classList.toggle("wrong", one.dataset.name === field);
}
