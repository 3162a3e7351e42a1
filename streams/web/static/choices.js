// The choices that the views Live and Map share, verdict and time. The address has them, so that a link is a view.

import { byId, el } from "./dom.js";

const VERDICTS = [["", "All"], ["deny", "Denied"], ["audit", "Audited"], ["allow", "Allowed"]];

/** The parameters of the address. */
export const parameters = () => new URLSearchParams(location.search);

/** The parameters of the address after some changes: an empty value removes a parameter. */
export function withChanges(changes) {
  const query = parameters();
  for (const [name, value] of Object.entries(changes)) {
    if (value) query.set(name, value);
    else query.delete(name);
  }
  return query;
}

/** Put parameters into the address. `isNew`: the browser's Back returns to what is there now. */
export function writeAddress(query, isNew) {
  const text = query.toString();
  history[isNew ? "pushState" : "replaceState"](null, "", text ? `?${text}` : location.pathname);
}

/** Make the buttons of the verdicts. `choose` is called with the verdict, which is empty for all. */
export function startVerdicts(choose) {
  byId("verdicts").append(...VERDICTS.map(([value, name]) =>
    el("button", { type: "button", "data-verdict": value, onclick: () => choose(value) }, name)));
}

/** Show which verdicts are chosen; an empty list means all. */
export function showVerdicts(chosen) {
  for (const button of byId("verdicts").children) {
    const { verdict } = button.dataset;
    button.setAttribute("aria-pressed", String(verdict ? chosen.includes(verdict) : !chosen.length));
  }
}

/** Start the choice of the time. `choose` is called with `since` and `until`; an empty one is not in the address. */
export function startTimes(choose) {
  byId("time").addEventListener("change", () => {
    const since = byId("time").value;
    byId("between").hidden = since !== "other";
    if (since === "other") byId("since").focus();
    else choose({ since, until: "" });
  });
  byId("between").addEventListener("submit", (event) => {
    event.preventDefault();
    choose({ since: byId("since").value.trim(), until: byId("until").value.trim() });
  });
}

/** Show the time of some parameters. */
export function showTimes(query) {
  const [since, until] = [query.get("since") || "", query.get("until") || ""];
  const known = !until && [...byId("time").options].some((option) => option.value === since && since !== "other");
  byId("time").value = known ? since : "other";
  byId("between").hidden = known;
  byId("since").value = since;
  byId("until").value = until;
}

/** Say what is wrong with a field; an empty text means nothing. */
export function sayAt(id, text) {
  byId(`${id}-error`).textContent = text;
  if (text) byId(id).setAttribute("aria-invalid", "true");
  else byId(id).removeAttribute("aria-invalid");
}

/** Say what is wrong with `since` or `until`, and show the fields of both. */
export function sayWrongTime(field, text) {
  byId("between").hidden = false;
  sayAt(field, text);
}
