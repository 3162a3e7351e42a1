// Draws the map on a canvas, and takes what a pointer and keys do to it.
//
// 5,000 curves take longer to draw than a frame has. So what stays as it is while something is dragged is kept as one
// picture: the whole map while it moves, and all but the own connections of what is dragged.

import { drawGroups, drawLabels, drawNodes, drawPaths, makePaths, radiusOf, readColors } from "./map_drawing.js";
import { startGestures } from "./map_gestures.js";

/** Connections that are drawn within a frame. */
const FEW = 300;
const SETTLE_MS = 140;

export function startCanvas(canvas, actions) {
  const pen = canvas.getContext("2d");
  const kept = new OffscreenCanvas(1, 1);
  const view = { x: 0, y: 0, scale: 1 };
  const scene = { graph: { nodes: new Map(), links: [] }, circles: new Map(), look: { chosen: "", chosenLink: "", search: "" }, colors: readColors(), view };
  let paths = null;
  let moving = null;
  let picture = null;
  let frame = 0;
  let settling = 0;
  let quiet = 0;
  let titles = [];
  const size = () => [canvas.clientWidth, canvas.clientHeight];
  const isMoving = (link) => moving.nodes.has(link.source) || moving.nodes.has(link.destination);

  function place(on) {
    const ratio = devicePixelRatio || 1;
    const [width, height] = size();
    on.setTransform(ratio * view.scale, 0, 0, ratio * view.scale, ratio * (width / 2 - view.x * view.scale), ratio * (height / 2 - view.y * view.scale));
  }

  function fitSize(one) {
    const ratio = devicePixelRatio || 1;
    const [width, height] = size();
    const wanted = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
    if (one.width !== wanted[0] || one.height !== wanted[1]) [one.width, one.height] = wanted;
  }

  function clear(on) {
    on.setTransform(1, 0, 0, 1, 0, 0);
    on.clearRect(0, 0, on.canvas.width, on.canvas.height);
  }

  /** Draw all but the links and nodes that are dragged, and keep it as a picture. */
  function makePicture() {
    fitSize(kept);
    const on = kept.getContext("2d");
    clear(on);
    place(on);
    const { graph, circles } = scene;
    drawGroups(on, scene, moving ? [...circles.values()].filter((one) => one !== moving.circle) : circles.values());
    paths ??= makePaths(scene, moving ? graph.links.filter((link) => !isMoving(link)) : graph.links);
    drawPaths(on, scene, paths);
    drawNodes(on, scene, moving ? [...graph.nodes.values()].filter((node) => !moving.nodes.has(node)) : graph.nodes.values());
    const ratio = devicePixelRatio || 1;
    on.setTransform(ratio, 0, 0, ratio, 0, 0);
    titles = moving ? [] : drawLabels(on, scene, size());
    picture?.bitmap.close();
    picture = { ...view, bitmap: kept.transferToImageBitmap() };
  }

  const isStale = () => picture.x !== view.x || picture.y !== view.y || picture.scale !== view.scale;
  /** Whether so much of the map is not in the picture that waiting for a pause would show nothing. */
  const isFar = () => {
    const [width, height] = size();
    return Math.abs(picture.x - view.x) * view.scale > width / 2 || Math.abs(picture.y - view.y) * view.scale > height / 2;
  };

  function draw(now) {
    frame = 0;
    quiet += 1;
    fitSize(canvas);
    const isOther = kept.width !== canvas.width || kept.height !== canvas.height;
    if (!picture || isOther || (isStale() && (scene.graph.links.length <= FEW || (quiet > 2 && now > settling) || isFar()))) makePicture();
    clear(pen);
    const ratio = devicePixelRatio || 1;
    const [width, height] = size();
    const grown = view.scale / picture.scale;
    pen.setTransform(grown, 0, 0, grown, ratio * (width / 2 + (picture.x - view.x) * view.scale - (width / 2) * grown), ratio * (height / 2 + (picture.y - view.y) * view.scale - (height / 2) * grown));
    pen.drawImage(picture.bitmap, 0, 0);
    if (moving) {
      place(pen);
      drawGroups(pen, scene, moving.circle ? [moving.circle] : []);
      drawPaths(pen, scene, makePaths(scene, scene.graph.links.filter(isMoving)));
      drawNodes(pen, scene, moving.nodes);
    }
    if (isStale()) ask();
  }

  function ask() {
    frame ||= requestAnimationFrame(draw);
  }

  const redo = () => {
    paths = null;
    // A slider redoes the map in each frame, and the browser is slow to free a picture of megabytes that is not closed.
    picture?.bitmap.close();
    picture = null;
    ask();
  };
  const moved = () => {
    // On a slow machine a frame takes longer than a pause: frames without a movement are counted, too.
    settling = performance.now() + SETTLE_MS;
    quiet = 0;
    ask();
  };
  const fit = () => {
    const [width, height] = size();
    const all = [...scene.circles.values()];
    if (!all.length || !width) return;
    const [left, right] = [Math.min(...all.map((one) => one.x - one.radius)) - 30, Math.max(...all.map((one) => one.x + one.radius)) + 30];
    const [top, bottom] = [Math.min(...all.map((one) => one.y - one.radius)) - 40, Math.max(...all.map((one) => one.y + one.radius)) + 40];
    view.scale = Math.min(2, width / (right - left), height / (bottom - top));
    [view.x, view.y] = [(left + right) / 2, (top + bottom) / 2];
    redo();
  };
  const zoom = (factor, px = size()[0] / 2, py = size()[1] / 2) => {
    const [width, height] = size();
    const [wx, wy] = [view.x + (px - width / 2) / view.scale, view.y + (py - height / 2) / view.scale];
    view.scale = Math.max(0.04, Math.min(6, view.scale * factor));
    [view.x, view.y] = [wx - (px - width / 2) / view.scale, wy - (py - height / 2) / view.scale];
    moved();
  };
  const find = (px, py) => {
    const [width, height] = size();
    const title = titles.find(({ box }) => px >= box[0] && px <= box[2] && py >= box[1] && py <= box[3]);
    if (title) return { title: title.key };
    const [x, y] = [view.x + (px - width / 2) / view.scale, view.y + (py - height / 2) / view.scale];
    let best = null;
    let least = Infinity;
    for (const node of scene.graph.nodes.values()) {
      const far = Math.hypot(node.x - x, node.y - y) - radiusOf(node);
      if (far < least) [best, least] = [node, far];
    }
    return least * view.scale < 7 ? { node: best } : {};
  };
  startGestures(canvas, { view, zoom, moved, fit, find, actions,
    drag: (nodes, key) => {
      moving = nodes && { nodes, circle: scene.circles.get(key) };
      redo();
    },
    shift: (dx, dy) => {
      for (const one of [...moving.nodes, moving.circle]) {
        if (one) [one.x, one.y] = [one.x + dx / view.scale, one.y + dy / view.scale];
      }
      ask();
    },
    nodesOf: (key) => new Set([...scene.graph.nodes.values()].filter((node) => node.group === key)) });
  new ResizeObserver(() => {
    if (!picture) fit();
    redo();
  }).observe(canvas);
  return {
    show: (graph, circles) => {
      Object.assign(scene, { graph, circles });
      redo();
    },
    look: (changed) => {
      Object.assign(scene.look, changed);
      redo();
    },
    recolor: () => {
      scene.colors = readColors();
      redo();
    },
    fit, zoom,
  };
}
