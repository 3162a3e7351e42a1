// The filters of the view. They are in the address, so that a link is a view: ?namespace=shop&not.port=53.

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
const VERDICTS = [["", "All"], ["deny", "Denied"], ["audit", "Audited"], ["allow", "Allowed"]];

/** The parameters of the address. */
export const parameters = () => new URLSearchParams(location.search);

/** Whether the view ends at a time, so that nothing new can come. */
export const isPast = () => Boolean(parameters().get("until"));

export function startFilters(changed) {
  const apply = (query) => {
    const text = query.toString();
    history.pushState(null, "", text ? `?${text}` : location.pathname);
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
  byId("verdicts").append(
    ...VERDICTS.map(([value, name]) =>
      el("button", { type: "button", "data-verdict": value, onclick: () => {
        const query = parameters();
        query.delete("verdict");
        if (value) query.append("verdict", value);
        apply(query);
      } }, name)),
  );
  startTimes(apply);
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
    const chosen = query.getAll("verdict");
    for (const button of byId("verdicts").children) {
      const { verdict } = button.dataset;
      button.setAttribute("aria-pressed", String(verdict ? chosen.includes(verdict) : !chosen.length));
    }
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

function startTimes(apply) {
  byId("time").addEventListener("change", () => {
    const chosen = byId("time").value;
    byId("between").hidden = chosen !== "other";
    if (chosen === "other") {
      byId("since").focus();
      return;
    }
    const query = parameters();
    query.delete("since");
    query.delete("until");
    if (chosen) query.set("since", chosen);
    apply(query);
  });
  byId("between").addEventListener("submit", (event) => {
    event.preventDefault();
    const query = parameters();
    for (const name of ["since", "until"]) {
      const text = byId(name).value.trim();
      if (text) query.set(name, text);
      else query.delete(name);
    }
    apply(query);
  });
}

function showTimes(query) {
  const [since, until] = [query.get("since") || "", query.get("until") || ""];
  const known = [...byId("time").options].some((option) => option.value === since && since !== "other");
  byId("time").value = known && !until ? since : "other";
  byId("between").hidden = known && !until;
  byId("since").value = since;
  byId("until").value = until;
}

function sayAt(id, text) {
  byId(`${id}-error`).textContent = text;
  if (text) byId(id).setAttribute("aria-invalid", "true");
  else byId(id).removeAttribute("aria-invalid");
}

/** Say what is wrong at the filter that has it. */
export function sayWrong(field, text) {
  if (field === "since" || field === "until") {
    byId("between").hidden = false;
    sayAt(field, text);
    return;
  }
  sayAt("value", text);
  for (const one of byId("chips").children) one.classList.toggle("wrong", one.dataset.name === field);
}
