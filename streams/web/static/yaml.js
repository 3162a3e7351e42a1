// A policy as YAML, to read and to copy.

import { el, plain } from "./dom.js";

/** Make a part with a YAML text and a button that copies it. `more` are further buttons. */
export function yamlPart(text, ...more) {
  // Each line by itself: plain() replaces line breaks.
  const shown = el("pre", { class: "yaml", tabindex: "0", "aria-label": "YAML" }, text.trimEnd().split("\n").map(plain).join("\n"));
  const said = el("span", { class: "note", role: "status" });
  const copy = el("button", { type: "button", onclick: async () => {
    try {
      await navigator.clipboard.writeText(text);
      said.textContent = "Copied.";
    } catch {
      // The browser lets no page copy, or not this one: the reader can.
      getSelection().selectAllChildren(shown);
      said.textContent = "Selected: copy it with the keyboard.";
    }
  } }, "Copy");
  return el("div", { class: "yaml-part" }, el("div", { class: "tools" }, copy, ...more, said), shown);
}

/** Say why a policy has no YAML here. */
export const noYaml = () => el("p", { class: "note" }, "As YAML it cannot be shown: the journal does not have all of it, because a part of it could not be read. kubectl get -o yaml shows it as it is now.");
