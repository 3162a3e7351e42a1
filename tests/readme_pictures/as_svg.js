// Returns what is seen of the page as SVG: boxes, texts, and what was drawn on canvases.
async () => {
  const icon = await (await fetch("/static/icon.svg")).text();
  const escape = (text) => String(text).replace(/[&<>"]/g, (one) => `&#${one.charCodeAt(0)};`);
  const round = (value) => Math.round(value * 10) / 10;
  const [width, height] = [innerWidth, innerHeight];
  const out = [];
  const isSeen = (color) => color && color !== "transparent" && !/^rgba.*, 0\)$/.test(color);

  function drawn(item) {
    const at = `transform="matrix(${item.matrix.join(" ")})"${item.alpha === 1 ? "" : ` opacity="${round(item.alpha)}"`}`;
    if (item.kind === "group") return `<g ${at}>${item.items.map(drawn).join("")}</g>`;
    const stroke = `fill="none" stroke="${item.color}" stroke-width="${Math.round(item.width * 100) / 100}"${item.dash?.length ? ` stroke-dasharray="${item.dash.map(round).join(" ")}"` : ""}`;
    if (item.kind === "fill") return `<path ${at} fill="${item.color}" d="${item.d}"/>`;
    if (item.kind === "stroke") return `<path ${at} ${stroke} d="${item.d}"/>`;
    const paint = item.kind === "fillText" ? `fill="${item.color}"` : `${stroke} stroke-linejoin="round"`;
    return `<text ${at} x="${round(item.x)}" y="${round(item.y)}" style="font:${escape(item.font).replace(/&#34;/g, "'")}" text-anchor="${item.anchor === "center" ? "middle" : "start"}" dominant-baseline="middle" ${paint}>${escape(item.text)}</text>`;
  }

  function box(element, style) {
    const { left, top, width: w, height: h } = element.getBoundingClientRect();
    if (w < 1 || h < 1 || top > height || left > width) return;
    const line = ["Top", "Right", "Bottom", "Left"].map((side) => [parseFloat(style[`border${side}Width`]), style[`border${side}Color`]]);
    const isFramed = line.every(([thick, color]) => thick && isSeen(color));
    const fill = isSeen(style.backgroundColor) ? style.backgroundColor : "none";
    if (fill !== "none" || isFramed) {
      const inset = isFramed ? 0.5 : 0;
      out.push(`<rect x="${round(left + inset)}" y="${round(top + inset)}" width="${round(w - 2 * inset)}" height="${round(h - 2 * inset)}" rx="${Math.min(parseFloat(style.borderTopLeftRadius) || 0, h / 2)}" fill="${fill}"${isFramed ? ` stroke="${line[0][1]}"` : ""}/>`);
    }
    if (isFramed) return;
    const sides = [[left, top, w, 0], [left + w, top, 0, h], [left, top + h, w, 0], [left, top, 0, h]];
    line.forEach(([thick, color], at) => {
      if (!thick || !isSeen(color)) return;
      const [x, y, dx, dy] = sides[at];
      out.push(`<path d="M${round(x)} ${round(y)}l${round(dx)} ${round(dy)}" stroke="${color}" stroke-width="${thick}"/>`);
    });
  }

  /** Draw the dot or line before a text, such as those of a legend. */
  function mark(element) {
    const style = getComputedStyle(element, "::before");
    const [w, thick] = [parseFloat(style.width), parseFloat(style.borderTopWidth)];
    const h = parseFloat(style.height) || thick;
    const color = thick ? style.borderTopColor : style.backgroundColor;
    if (style.content !== '""' || !w || !h || !isSeen(color)) return;
    const { left, top, bottom } = element.getBoundingClientRect();
    const own = getComputedStyle(element);
    const x = left + parseFloat(own.paddingLeft) + parseFloat(own.borderLeftWidth);
    out.push(`<rect x="${round(x)}" y="${round((top + bottom - h) / 2)}" width="${round(w)}" height="${round(h)}" rx="${Math.min(parseFloat(style.borderTopLeftRadius) || 0, h / 2)}" fill="${color}"/>`);
  }

  function text(node, style) {
    const range = document.createRange();
    let begin = 0;
    let line = null;
    const lines = [];
    for (const word of node.data.split(/(?<=\s)/)) {
      range.setStart(node, begin);
      begin += word.length;
      range.setEnd(node, begin);
      const [place] = [...range.getClientRects()].filter((one) => one.width);
      if (!place) continue;
      if (line && Math.abs(line.top - place.top) < 2) {
        line.text += word;
        line.right = place.right;
      } else lines.push(line = { text: word, left: place.left, top: place.top, right: place.right, bottom: place.bottom });
    }
    for (const one of lines) write(one, one.text, style);
  }

  function write({ left, top, right, bottom }, words, style) {
    if (top > height || left > width || !words.trim()) return;
    const size = parseFloat(style.fontSize);
    const family = style.fontFamily.includes("mono") ? "monospace" : "sans-serif";
    out.push(`<text x="${round(left)}" y="${round((top + bottom) / 2 + size * 0.36)}" textLength="${round(right - left)}" lengthAdjust="spacingAndGlyphs" font-family="${family}" font-size="${round(size)}" font-weight="${style.fontWeight}" fill="${style.color}"${style.textDecorationLine === "underline" ? ' text-decoration="underline"' : ""}>${escape(words.trim())}</text>`);
  }

  function walk(element) {
    const style = getComputedStyle(element);
    const place = element.getBoundingClientRect();
    // What only a screen reader gets is clipped to a point.
    if (style.display === "none" || style.visibility === "hidden" || style.opacity === "0" || (style.clipPath !== "none" && style.position === "absolute") || place.bottom < 0) return;
    box(element, style);
    mark(element);
    if (element.tagName === "CANVAS") {
      const scale = place.width / element.width;
      out.push(`<svg x="${round(place.left)}" y="${round(place.top)}" width="${round(place.width)}" height="${round(place.height)}"><g transform="scale(${scale})">${window.drawnOn(element).map(drawn).join("")}</g></svg>`);
      return;
    }
    if (element.tagName === "IMG") {
      // The page's own icon, which is SVG as well.
      out.push(icon.replace(/^<svg\b/, `<svg x="${round(place.left)}" y="${round(place.top)}" width="${round(place.width)}" height="${round(place.height)}"`).trim());
      return;
    }
    if (["INPUT", "SELECT"].includes(element.tagName)) {
      if (element.type === "checkbox") {
        if (element.checked) write(place, "✓", style);
        return;
      }
      if (element.type === "range") {
        const [middle, at] = [(place.top + place.bottom) / 2, (element.value - element.min) / (element.max - element.min || 1)];
        const color = style.accentColor === "auto" ? style.color : style.accentColor;
        out.push(`<path d="M${round(place.left)} ${round(middle)}h${round(place.width)}" stroke="${color}" stroke-width="4" opacity=".35"/><circle cx="${round(place.left + 8 + at * (place.width - 16))}" cy="${round(middle)}" r="8" fill="${color}"/>`);
        return;
      }
      const shown = element.tagName === "SELECT" ? element.selectedOptions[0]?.text : element.value || element.placeholder;
      const inner = { left: place.left + 8, top: place.top, bottom: place.bottom };
      const pen = document.createElement("canvas").getContext("2d");
      pen.font = style.font;
      if (shown) write({ ...inner, right: inner.left + pen.measureText(shown).width }, shown, style);
      return;
    }
    for (const child of element.childNodes) {
      if (child.nodeType === Node.TEXT_NODE) text(child, style);
      else if (child.nodeType === Node.ELEMENT_NODE) walk(child);
    }
  }

  const paper = getComputedStyle(document.body).backgroundColor;
  for (const child of document.body.children) walk(child);
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}"><rect width="100%" height="100%" fill="${paper}"/>\n${out.join("\n")}\n</svg>\n`;
}
