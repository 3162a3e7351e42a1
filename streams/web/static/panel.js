// The panel at the side, in which a view shows one thing in detail: a record, or a connection.

import { byId, el, fill } from "./dom.js";

/** Start the panel. `what` is the thing as the button names it that closes the panel; `closed` is called after that. */
export function startPanel(what, closed) {
  const panel = byId("detail");
  const close = () => {
    if (panel.hidden) return;
    panel.hidden = true;
    document.body.classList.remove("with-detail");
    closed();
  };
  addEventListener("keydown", (event) => event.key === "Escape" && close());
  return {
    close,
    /** Show a title, which is a list of elements and texts, and the parts below it. */
    show: (title, ...parts) => {
      const heading = el("h2", { id: "detail-title", tabindex: "-1" }, ...title);
      fill(panel,
        el("div", { class: "detail-head" }, heading, el("button", { type: "button", class: "quiet", "aria-label": `Close the ${what}`, onclick: close }, "Close")),
        ...parts);
      panel.hidden = false;
      document.body.classList.add("with-detail");
      panel.scrollTop = 0;
      heading.focus();
    },
  };
}
