// What the map shows: the places and connections of the chosen time and verdicts, with closed namespaces as one place.

const KINDS = { node: "Nodes", outside: "Outside the cluster", unknown: "Not known which pod" };
export const VERDICTS = ["deny", "audit", "allow", "unknown"];

/** A place as people read it, in parts: `space` is its group, `name` what it is called there. */
export function placeOf([kind, namespace, name]) {
  const space = namespace || KINDS[kind] || kind;
  const text = name || (kind === "bare" ? "pods without a workload" : kind === "outside" ? "other addresses" : "");
  return { kind, namespace, space, group: namespace ? `ns:${namespace}` : kind, path: name,
    name: text, short: name.includes("/") && kind === "workload" ? name.slice(name.indexOf("/") + 1) : text };
}

/** The groups of an answer: namespaces, and what is in none. */
export function readGroups(answer) {
  const groups = new Map();
  answer.places.forEach((one, number) => {
    const place = placeOf(one);
    if (!groups.has(place.group)) groups.set(place.group, { key: place.group, title: place.space, kind: place.namespace ? "namespace" : place.kind, places: [] });
    groups.get(place.group).places.push(number);
  });
  return groups;
}

/** Add up the counts of an edge from one step to another, both included. */
function sum(counts, from, to) {
  const found = [0, 0, 0, 0];
  for (const [step, ...numbers] of counts) {
    if (step >= from && step <= to) numbers.forEach((count, at) => (found[at] += count));
  }
  return found;
}

/**
 * Make the graph. `closed`: keys of groups that are one node. `verdict`: the only one that is shown, or empty.
 * A link has all that one node sent to another; `edges` are the numbers of the answer's edges in it.
 */
export function makeGraph(answer, groups, { from, to, verdict, closed }) {
  const nodes = new Map();
  const ids = answer.places.map((one, number) => {
    const place = placeOf(one);
    const isClosed = closed.has(place.group);
    const id = isClosed ? `g ${place.group}` : `p ${number}`;
    if (!nodes.has(id)) {
      nodes.set(id, { id, group: place.group, isGroup: isClosed, kind: place.kind, namespace: place.namespace, path: isClosed ? "" : place.path, size: isClosed ? groups.get(place.group).places.length : 1,
        short: isClosed ? place.space : place.short, space: place.space, name: isClosed ? "" : place.name, total: 0 });
    }
    return id;
  });
  const links = new Map();
  answer.edges.forEach(([source, destination, counts], number) => {
    const found = sum(counts, from, to);
    if (verdict) VERDICTS.forEach((one, at) => (found[at] = one === verdict ? found[at] : 0));
    const total = found[0] + found[1] + found[2] + found[3];
    if (!total) return;
    const key = `${ids[source]}\n${ids[destination]}`;
    let link = links.get(key);
    if (!link) {
      link = { key, source: nodes.get(ids[source]), destination: nodes.get(ids[destination]), counts: [0, 0, 0, 0], total: 0, edges: [] };
      links.set(key, link);
    }
    found.forEach((count, at) => (link.counts[at] += count));
    link.total += total;
    link.edges.push(number);
    link.source.total += total;
    link.destination.total += total;
  });
  return { nodes, links: [...links.values()] };
}

/** The worst verdict of a link: what a reader wants to know first. */
export const worst = (link) => VERDICTS[link.counts.findIndex((count) => count > 0)] || "unknown";

/** How a node is called in lists. */
export const nameOf = (node) => (node.name ? `${node.space}/${node.name}` : node.space);

/** Whether a node is meant by what somebody searches. */
export const matches = (node, text) => `${node.space}/${node.name}`.toLowerCase().includes(text);

/** Links in the order in which people read them: what was denied first, then what is most. */
export const inOrder = (links) => [...links].sort((one, other) => (other.counts[0] > 0) - (one.counts[0] > 0)
  || (other.counts[1] > 0) - (one.counts[1] > 0) || other.total - one.total || (one.key < other.key ? -1 : 1));
