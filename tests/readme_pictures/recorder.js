// Notes what is drawn on canvases, so that it can be written as SVG. Runs before the page's own scripts.
(() => {
  const items = new WeakMap();
  const of = (canvas) => items.get(canvas) || items.set(canvas, []).get(canvas);
  const round = (value) => Math.round(value * 10) / 10;
  const steps = {
    moveTo: (x, y) => `M${round(x)} ${round(y)}`,
    lineTo: (x, y) => `L${round(x)} ${round(y)}`,
    quadraticCurveTo: (a, b, x, y) => `Q${round(a)} ${round(b)} ${round(x)} ${round(y)}`,
    bezierCurveTo: (a, b, c, d, x, y) => `C${[a, b, c, d, x, y].map(round).join(" ")}`,
    rect: (x, y, w, h) => `M${round(x)} ${round(y)}h${round(w)}v${round(h)}h${round(-w)}z`,
    closePath: () => "z",
    // Whole circles are all that the page draws of arcs.
    arc: (x, y, r) => `M${round(x - r)} ${round(y)}a${round(r)} ${round(r)} 0 1 0 ${round(2 * r)} 0a${round(r)} ${round(r)} 0 1 0 ${round(-2 * r)} 0z`,
  };
  const contexts = [CanvasRenderingContext2D.prototype, OffscreenCanvasRenderingContext2D.prototype];
  const wrap = (owner, name, note) => {
    const own = owner[name];
    owner[name] = function (...given) {
      note.call(this, given);
      return own.apply(this, given);
    };
  };
  for (const [name, text] of Object.entries(steps)) {
    for (const owner of [Path2D.prototype, ...contexts]) wrap(owner, name, function (given) { this.noted = (this.noted || "") + text(...given); });
  }
  const look = (pen) => {
    const { a, b, c, d, e, f } = pen.getTransform();
    return { matrix: [a, b, c, d, e, f].map((one) => Math.round(one * 1000) / 1000), alpha: pen.globalAlpha };
  };
  for (const pen of contexts) {
    wrap(pen, "beginPath", function () { this.noted = ""; });
    wrap(pen, "clearRect", function () { of(this.canvas).length = 0; });
    for (const kind of ["fill", "stroke"]) {
      wrap(pen, kind, function ([path]) {
        const d = path instanceof Path2D ? path.noted : this.noted;
        if (d) of(this.canvas).push({ kind, d, color: this[`${kind}Style`], width: this.lineWidth, dash: this.getLineDash(), ...look(this) });
      });
      wrap(pen, `${kind}Text`, function ([text, x, y]) {
        of(this.canvas).push({ kind: `${kind}Text`, text, x, y, font: this.font, color: this[`${kind}Style`], width: this.lineWidth, anchor: this.textAlign, ...look(this) });
      });
    }
    wrap(pen, "fillRect", function (given) {
      of(this.canvas).push({ kind: "fill", d: steps.rect(...given), color: this.fillStyle, ...look(this) });
    });
    wrap(pen, "drawImage", function ([source]) {
      if (source.noted) of(this.canvas).push({ kind: "group", items: source.noted, ...look(this) });
    });
  }
  const transfer = OffscreenCanvas.prototype.transferToImageBitmap;
  OffscreenCanvas.prototype.transferToImageBitmap = function () {
    const made = transfer.call(this);
    made.noted = [...of(this)];
    return made;
  };
  window.drawnOn = (canvas) => items.get(canvas) || [];
})();
