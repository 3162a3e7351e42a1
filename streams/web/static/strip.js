// The rates: how many records a second, by verdict. Each has a scale of its own, or denies would vanish beside allows.

import uPlot from "/static/vendor/uplot/uPlot.esm.js";
import { byId, el } from "./dom.js";

const SECONDS = 120;
const KINDS = [["deny", "Denied"], ["audit", "Audited"], ["allow", "Allowed"]];
const number = new Intl.NumberFormat("en-US");

export function startStrip() {
  const cells = KINDS.map(([kind, name]) => {
    const rate = el("span", { class: "rate" }, "0");
    const canvas = el("div", { class: "plot", "aria-hidden": "true" });
    byId("rates").append(el("div", { class: `cell ${kind}` },
      el("p", { class: "rate-line" }, el("span", { class: "name" }, name), rate, el("span", { class: "unit" }, "/ s")), canvas));
    return { kind, rate, canvas, counts: new Array(SECONDS).fill(0), plot: null };
  });
  let second = Math.floor(Date.now() / 1000);

  const draw = (cell) => {
    const width = Math.max(60, cell.canvas.clientWidth);
    const color = getComputedStyle(cell.canvas).color;
    cell.plot?.destroy();
    const bars = uPlot.paths.bars({ size: [0.8, 8], align: 1 });
    cell.plot = new uPlot({
      width, height: 36, pxAlign: false, cursor: { show: false }, legend: { show: false },
      padding: [2, 0, 0, 0], scales: { x: { time: false }, y: { range: (_, low, high) => [0, Math.max(1, high)] } },
      axes: [{ show: false }, { show: false }], series: [{}, { fill: color, stroke: color, width: 0, paths: bars, points: { show: false } }],
    }, data(cell), cell.canvas);
  };
  const data = (cell) => [cell.counts.map((_, at) => at), cell.counts];
  const redraw = () => cells.forEach(draw);
  const move = () => {
    const now = Math.floor(Date.now() / 1000);
    for (; second < now; second += 1) {
      for (const cell of cells) {
        cell.rate.textContent = number.format(cell.counts.at(-1));
        cell.counts.push(0);
        cell.counts.shift();
      }
    }
    for (const cell of cells) cell.plot?.setData(data(cell));
  };
  setInterval(move, 1000);
  new ResizeObserver(redraw).observe(byId("rates"));
  return {
    redraw,
    add: (counts) => cells.forEach((cell) => (cell.counts[SECONDS - 1] += counts[cell.kind] || 0)),
    clear: () => cells.forEach((cell) => cell.counts.fill(0)),
  };
}
