// Dark or light: as the system is, or as the reader has chosen.

import { byId } from "./dom.js";

const KEY = "kubeweir-theme";
const NAMES = { auto: "Theme: auto", light: "Theme: light", dark: "Theme: dark" };

export function startTheme(changed) {
  const button = byId("theme");
  const apply = () => {
    const chosen = localStorage.getItem(KEY) || "auto";
    if (chosen === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = chosen;
    button.textContent = NAMES[chosen] || NAMES.auto;
    changed();
  };
  button.addEventListener("click", () => {
    const all = Object.keys(NAMES);
    localStorage.setItem(KEY, all[(all.indexOf(localStorage.getItem(KEY) || "auto") + 1) % all.length]);
    apply();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  apply();
}
