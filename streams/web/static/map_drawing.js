// Draws the parts of the map. A scene has the graph, the circles of its groups, what is chosen, colours and the view.

import { VERDICTS, matches } from "./map_graph.js";

const BEND = [0.2, 0.15, 0.09, 0.03];
const FAINT = 0.07;
const MAX_LABELS = 260;
const BIG = 3_000;
const TOGETHER = 60;
const NAMES = ["deny", "audit", "allow", "soft", "ink", "line", "card", "accent"];
export const radiusOf = (node) => (node.isGroup ? 13 + Math.min(13, Math.sqrt(node.size) * 1.6) : 4.5 + Math.min(5, Math.log10(1 + node.total)));

/** The colours of the page's theme. */
export function readColors() {
  const style = getComputedStyle(document.documentElement);
  const colors = Object.fromEntries(NAMES.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  return { ...colors, unknown: colors.soft, font: getComputedStyle(document.body).fontFamily };
}

/** Whether a node is not faint: it is chosen, talks to what is chosen, or is searched for. */
function isMeant({ graph, look: { chosen, chosenLink, search } }) {
  if (chosen || chosenLink) {
    const meant = new Set(chosen ? [chosen] : []);
    for (const link of graph.links) {
      if (chosen ? link.source.id === chosen || link.destination.id === chosen : link.key === chosenLink) {
        meant.add(link.source.id);
        meant.add(link.destination.id);
      }
    }
    return (node) => meant.has(node.id);
  }
  return search ? (node) => matches(node, search) : null;
}

function isLinkMeant({ look: { chosen, chosenLink, search } }) {
  if (chosenLink) return (link) => link.key === chosenLink;
  if (chosen) return (link) => link.source.id === chosen || link.destination.id === chosen;
  return search ? (link) => matches(link.source, search) || matches(link.destination, search) : null;
}

function curve(path, heads, link, kind) {
  const { source, destination } = link;
  const [dx, dy] = [destination.x - source.x, destination.y - source.y];
  const far = Math.hypot(dx, dy);
  if (!far) return;
  const bend = BEND[kind] * Math.min(far, 900);
  const [mx, my] = [(source.x + destination.x) / 2 - (dy / far) * bend, (source.y + destination.y) / 2 + (dx / far) * bend];
  path.moveTo(source.x, source.y);
  path.quadraticCurveTo(mx, my, destination.x, destination.y);
  if (!heads) return;
  const [ax, ay] = [destination.x - mx, destination.y - my];
  const length = Math.hypot(ax, ay) || 1;
  const [ux, uy] = [ax / length, ay / length];
  const [tx, ty] = [destination.x - ux * (radiusOf(destination) + 2), destination.y - uy * (radiusOf(destination) + 2)];
  heads.moveTo(tx, ty);
  heads.lineTo(tx - ux * 9 - uy * 4, ty - uy * 9 + ux * 4);
  heads.lineTo(tx - ux * 9 + uy * 4, ty - uy * 9 - ux * 4);
  heads.closePath();
}

/** Make the curves, those that are alike together; many at once are slower to draw than some. */
export function makePaths(scene, links) {
  const meant = isLinkMeant(scene);
  const found = new Map();
  for (const link of links) {
    if (link.source === link.destination) continue;
    link.counts.forEach((count, kind) => {
      if (!count) return;
      const width = Math.min(4, Math.floor(Math.log10(count)));
      const faint = meant && !meant(link) ? 1 : 0;
      const key = (1 - faint) * 100 + (3 - kind) * 10 + width;
      let lists = found.get(key);
      if (!lists) found.set(key, (lists = { kind, width, faint, list: [] }));
      let last = lists.list.at(-1);
      if (!last || last.count >= TOGETHER) lists.list.push((last = { count: 0, path: new Path2D(), heads: links.length <= BIG || (meant && !faint) ? new Path2D() : null }));
      last.count += 1;
      curve(last.path, last.heads, link, kind);
    });
  }
  return [...found].sort(([one], [other]) => one - other).map(([, one]) => one);
}

export function drawPaths(on, { graph, look, colors, view: { scale } }, found) {
  const many = graph.links.length > 600;
  on.lineCap = "butt";
  for (const { kind, width, faint, list } of found) {
    on.strokeStyle = on.fillStyle = colors[VERDICTS[kind]];
    on.globalAlpha = faint ? FAINT : kind === 0 ? 0.9 : many && !look.chosen ? 0.3 : 0.55;
    on.lineWidth = (0.9 + width * 0.75) / Math.max(scale, 0.35);
    for (const { path, heads } of list) {
      on.stroke(path);
      if (heads && scale > 0.25) on.fill(heads);
    }
  }
  on.globalAlpha = 1;
}

export function drawGroups(on, { colors, view: { scale } }, circles) {
  for (const one of circles) {
    if (!one.isOpen) continue;
    on.beginPath();
    on.arc(one.x, one.y, one.radius, 0, 2 * Math.PI);
    on.fillStyle = colors.card;
    on.fill();
    on.setLineDash(one.kind === "namespace" ? [] : [5 / scale, 4 / scale]);
    on.lineWidth = 1.2 / scale;
    on.strokeStyle = colors.line;
    on.stroke();
    on.setLineDash([]);
  }
}

export function drawNodes(on, scene, nodes) {
  const { look, colors, view: { scale } } = scene;
  const meant = isMeant(scene);
  for (const node of nodes) {
    on.globalAlpha = meant && !meant(node) ? 0.2 : node.total ? 1 : 0.35;
    const radius = Math.max(radiusOf(node), 1.6 / scale);
    on.beginPath();
    if (node.kind === "outside" || node.kind === "node") on.rect(node.x - radius * 0.9, node.y - radius * 0.9, radius * 1.8, radius * 1.8);
    else on.arc(node.x, node.y, radius, 0, 2 * Math.PI);
    on.fillStyle = node.id === look.chosen ? colors.ink : node.namespace ? colors.accent : colors.soft;
    on.fill();
    on.lineWidth = 1.5 / Math.max(scale, 0.5);
    on.strokeStyle = colors.card;
    on.stroke();
  }
  on.globalAlpha = 1;
}

/** Write names where there is room for them: groups first, then who is meant, then who talks most. Return where the
 * names of open groups are. */
export function drawLabels(on, scene, [width, height]) {
  const { graph, circles, colors, view } = scene;
  const meant = isMeant(scene);
  const taken = [];
  const titles = [];
  const write = (text, x, y, font, color, owner) => {
    on.font = font;
    const shown = text.length > 34 ? `${text.slice(0, 33)}…` : text;
    const half = on.measureText(shown).width / 2 + 3;
    const box = [x - half, y - 9, x + half, y + 7];
    if (box[2] < 0 || box[0] > width || box[3] < 0 || box[1] > height) return;
    if (taken.some((one) => box[0] < one[2] && box[2] > one[0] && box[1] < one[3] && box[3] > one[1])) return;
    taken.push(box);
    on.lineWidth = 3;
    on.strokeStyle = colors.card;
    on.strokeText(shown, x, y);
    on.fillStyle = color;
    on.fillText(shown, x, y);
    if (owner) titles.push({ box, key: owner });
  };
  on.textAlign = "center";
  on.textBaseline = "middle";
  on.lineJoin = "round";
  const at = (one) => [(one.x - view.x) * view.scale + width / 2, (one.y - view.y) * view.scale + height / 2];
  for (const one of [...circles.values()].sort((a, b) => b.size - a.size)) {
    if (!one.isOpen) continue;
    const [x, y] = at(one);
    write(one.title, x, y - one.radius * view.scale - 11, `600 12.5px ${colors.font}`, colors.ink, one.key);
  }
  const ordered = [...graph.nodes.values()].filter((node) => !meant || meant(node) || node.isGroup);
  ordered.sort((one, other) => other.isGroup - one.isGroup || other.total - one.total);
  for (const node of ordered) {
    if (taken.length > MAX_LABELS) break;
    if (!node.isGroup && view.scale < 0.55 && !meant) break;
    const [x, y] = at(node);
    write(node.isGroup ? `${node.short} · ${node.size}` : node.short, x, y + radiusOf(node) * Math.max(view.scale, 0.4) + 10, `${node.isGroup ? "600 12.5px" : "11.5px"} ${colors.font}`, node.isGroup ? colors.ink : colors.soft);
  }
  return titles;
}
