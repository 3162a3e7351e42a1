// What all views have in common: the theme, signing in, and what the bar says of the page's state.

import { Refused, get, token } from "./api.js";
import { byId, el, fill, plain } from "./dom.js";
import { startTheme } from "./theme.js";

/** Start the page. `begin` shows the view, now and after signing in; `redraw` is called when the colours change. */
export function startShell(begin, redraw = () => {}) {
  startTheme(redraw);
  byId("signin").addEventListener("submit", (event) => {
    event.preventDefault();
    token.set(byId("token").value.trim());
    byId("token").value = "";
    begin();
  });
  begin();
}

/** Say in the bar how the view is: `kind` is good, bad, or empty. */
export function state(kind, text) {
  byId("state").className = `state ${kind}`;
  byId("state").textContent = text;
}

/** Say why the view has nothing to show: in large letters, then in further texts and elements. */
export function sayEmpty(text, ...more) {
  byId("empty").hidden = false;
  fill(byId("empty"), el("p", { class: "big" }, text), ...more.map((one) => (typeof one === "string" ? el("p", {}, one) : one)));
}

/** Ask the server whether it knows who looks, and show the view. Throws Refused. */
export async function openSession(options) {
  byId("token-error").textContent = "";
  const session = await get("/api/session", options);
  byId("signin").hidden = true;
  byId("view").hidden = false;
  byId("cluster").hidden = !session.cluster;
  byId("cluster").textContent = session.cluster ? `cluster ${plain(session.cluster)}` : "";
  return session;
}

/** Say why the server does not answer. Return true if it asks for a token, or if trying again makes no sense. */
export function sayRefused(error) {
  if (!(error instanceof Refused)) throw error;
  if (error.status === 401) {
    byId("view").hidden = true;
    byId("signin").hidden = false;
    if (token.get()) byId("token-error").textContent = plain(error.message);
    token.set("");
    state("bad", "Not signed in");
    byId("token").focus();
    return true;
  }
  state("bad", error.status === 0 ? "Server away" : error.status === 503 ? "Waiting" : "Not shown");
  return error.status !== 0 && error.status !== 503;
}
