// Gives each place of the map a position. The same answer always gets the same map: nothing in it is random.
//
// A group is a circle with room for its places, which lie in it as the seeds of a sunflower do. Groups that talk to each other are pulled
// together, circles that overlap are pushed apart. Only groups are moved so, because they are few.

const WORK = 6_000_000;
const SEED = 0.6;
const GOLDEN = Math.PI * (3 - Math.sqrt(5));

/** Set x, y of all nodes; return the circles of the groups. `before` are earlier circles, where groups stay about. */
export function layOut(graph, groups, closed, before = new Map()) {
  const step = graph.nodes.size <= 160 ? 56 : graph.nodes.size <= 400 ? 38 : 27;
  const circles = [...groups.values()].map((group, index) => {
    const size = closed.has(group.key) ? 1 : group.places.length;
    const known = before.get(group.key);
    return { key: group.key, title: group.title, kind: group.kind, isOpen: !closed.has(group.key), size, step,
      radius: closed.has(group.key) ? 26 : SEED * step * Math.sqrt(size) + step * 0.6, x: known?.x, y: known?.y, index, weight: 0 };
  });
  const byKey = new Map(circles.map((one) => [one.key, one]));
  const pulls = new Map();
  for (const { source, destination, total } of graph.links) {
    if (source.group === destination.group) continue;
    const ends = [byKey.get(source.group).index, byKey.get(destination.group).index].sort((one, other) => one - other);
    const key = ends[0] * circles.length + ends[1];
    pulls.set(key, (pulls.get(key) || 0) + Math.log2(1 + total));
    for (const end of ends) circles[end].weight += 1;
  }
  begin(circles);
  settle(circles, [...pulls].map(([key, weight]) => [circles[Math.floor(key / circles.length)], circles[key % circles.length], weight]));
  inside(graph, byKey);
  return byKey;
}

/** The groups that talk most are in the middle. */
function begin(circles) {
  const ordered = [...circles].sort((one, other) => other.weight - one.weight || other.size - one.size || (one.key < other.key ? -1 : 1));
  let area = 0;
  ordered.forEach((one, index) => {
    area += (one.radius + 20) ** 2;
    if (one.x !== undefined) return;
    const far = Math.sqrt(area) * 0.9;
    one.x = far * Math.cos(index * GOLDEN) * 1.3;
    one.y = far * Math.sin(index * GOLDEN) * 0.8;
  });
}

function settle(circles, pulls) {
  const rounds = Math.max(8, Math.min(160, Math.floor(WORK / Math.max(1, circles.length ** 2))));
  const most = Math.max(1, ...pulls.map(([, , weight]) => weight));
  for (let round = 0; round < rounds; round += 1) {
    const heat = 1 - round / rounds;
    for (const one of circles) {
      one.x -= one.x * 0.01 * heat;
      one.y -= one.y * 0.07 * heat;
    }
    for (const [one, other, weight] of pulls) {
      const [dx, dy] = [other.x - one.x, other.y - one.y];
      const far = Math.hypot(dx, dy) || 1;
      const pull = ((far - one.radius - other.radius - 60) / far) * 0.12 * heat * (0.25 + (0.75 * weight) / most);
      if (pull <= 0) continue;
      one.x += dx * pull * 0.5;
      one.y += dy * pull * 0.5;
      other.x -= dx * pull * 0.5;
      other.y -= dy * pull * 0.5;
    }
    separate(circles);
  }
  for (let round = 0; round < 12; round += 1) separate(circles);
}

function separate(circles) {
  for (let first = 0; first < circles.length; first += 1) {
    const one = circles[first];
    for (let second = first + 1; second < circles.length; second += 1) {
      const other = circles[second];
      const [dx, dy] = [other.x - one.x, other.y - one.y];
      const room = one.radius + other.radius + 44;
      if (Math.abs(dx) >= room || Math.abs(dy) >= room) continue;
      const far = Math.hypot(dx, dy);
      if (far >= room) continue;
      const angle = far ? Math.atan2(dy, dx) : first + second;
      const push = (room - far) / 2;
      one.x -= Math.cos(angle) * push;
      one.y -= Math.sin(angle) * push;
      other.x += Math.cos(angle) * push;
      other.y += Math.sin(angle) * push;
    }
  }
}

/** Put places into their group: who talks most to others is outside, on the side of those. */
function inside(graph, byKey) {
  const members = new Map([...byKey.keys()].map((key) => [key, []]));
  for (const node of graph.nodes.values()) {
    node.toward = { x: 0, y: 0, count: 0 };
    members.get(node.group).push(node);
  }
  for (const { source, destination } of graph.links) {
    for (const [one, other] of [[source, destination], [destination, source]]) {
      if (one.group === other.group) continue;
      const [own, far] = [byKey.get(one.group), byKey.get(other.group)];
      const length = Math.hypot(far.x - own.x, far.y - own.y) || 1;
      one.toward.x += (far.x - own.x) / length;
      one.toward.y += (far.y - own.y) / length;
      one.toward.count += 1;
    }
  }
  for (const [key, nodes] of members) {
    const circle = byKey.get(key);
    nodes.sort((one, other) => one.toward.count - other.toward.count || (one.id < other.id ? -1 : 1));
    let at = 0;
    for (let ring = 0; at < nodes.length; ring += 1) {
      const own = nodes.slice(at, at + Math.max(1, 6 * ring));
      const seeds = own.map((_, index) => seed(at + index, circle.step)).sort((one, other) => Math.atan2(one.y, one.x) - Math.atan2(other.y, other.x));
      own.sort((one, other) => angleOf(one) - angleOf(other));
      own.forEach((node, index) => ([node.x, node.y] = [circle.x + seeds[index].x, circle.y + seeds[index].y]));
      at += own.length;
    }
  }
}

function seed(number, step) {
  const far = number ? SEED * step * Math.sqrt(number + 0.5) : 0;
  return { x: far * Math.cos(number * GOLDEN), y: far * Math.sin(number * GOLDEN) };
}

const angleOf = (node) => Math.atan2(node.toward.y, node.toward.x);
