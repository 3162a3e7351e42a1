// What a pointer, fingers and keys do to the map: move it, change its size, drag and choose its places.

const STILL_PX = 4;
const KEY_STEP = 60;

export function startGestures(canvas, { view, zoom, moved, fit, find, drag, shift, nodesOf, actions }) {
  const pointers = new Map();
  let held = null;
  const at = (event) => [event.offsetX, event.offsetY];

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, at(event));
    if (pointers.size > 1) {
      if (held?.isDragged && held.nodes) drag(null);
      held = null;
      return;
    }
    const found = find(...at(event));
    const nodes = found.title ? nodesOf(found.title) : found.node ? new Set([found.node]) : null;
    held = { ...found, nodes, key: found.title || (found.node?.isGroup ? found.node.group : ""), begun: at(event), isDragged: false };
  });

  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = at(event);
    const before = pointers.get(event.pointerId);
    if (!before) {
      actions.hover(find(x, y), x, y);
      return;
    }
    if (pointers.size > 1) {
      pinch(event.pointerId, before, [x, y]);
      return;
    }
    pointers.set(event.pointerId, [x, y]);
    if (!held) return;
    if (!held.isDragged) {
      if (Math.hypot(x - held.begun[0], y - held.begun[1]) < STILL_PX) return;
      held.isDragged = true;
      actions.hover({}, x, y);
      if (held.nodes) drag(held.nodes, held.key);
    }
    if (held.nodes) shift(x - before[0], y - before[1]);
    else {
      view.x -= (x - before[0]) / view.scale;
      view.y -= (y - before[1]) / view.scale;
      moved();
    }
  });

  function pinch(id, before, now) {
    const other = [...pointers].find(([one]) => one !== id)[1];
    const [far, near] = [Math.hypot(now[0] - other[0], now[1] - other[1]), Math.hypot(before[0] - other[0], before[1] - other[1])];
    pointers.set(id, now);
    if (near > 0) zoom(far / near, (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  }

  const end = (event) => {
    pointers.delete(event.pointerId);
    if (!held) return;
    const { isDragged, nodes, node, title } = held;
    held = null;
    if (isDragged && nodes) {
      drag(null);
      actions.dropped(nodes);
    } else if (!isDragged && event.type === "pointerup") actions.choose(node || null, title || "");
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("pointerleave", () => actions.hover({}, 0, 0));
  canvas.addEventListener("dblclick", (event) => {
    const { node, title } = find(...at(event));
    if (title || node?.isGroup) actions.toggle(title || node.group);
  });
  canvas.addEventListener("wheel", (event) => {
    // The page scrolls as ever: only a reader who is on the map changes its size.
    if (document.activeElement !== canvas && !event.ctrlKey) return;
    event.preventDefault();
    zoom(Math.exp(-Math.max(-120, Math.min(120, event.deltaY)) / 400), ...at(event));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (step) {
      view.x += (step[0] * KEY_STEP) / view.scale;
      view.y += (step[1] * KEY_STEP) / view.scale;
      moved();
    } else if (event.key === "+" || event.key === "=") zoom(1.3);
    else if (event.key === "-") zoom(1 / 1.3);
    else if (event.key === "0") fit();
    else return;
    event.preventDefault();
  });
}
