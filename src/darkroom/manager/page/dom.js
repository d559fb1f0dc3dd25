// A page as a function of what is known: `h` describes elements, `patch` brings those on the page up to date.

export { byId } from "./by_id.js";

const ATTRIBUTES = new Set(["for", "form", "href", "list", "role", "rel", "target", "headers", "scope"]);

/**
 * A description of an element. Properties are its own (`className`, `onclick`); names with a dash are attributes.
 *
 * `key` (or `id`) tells it from its siblings, `$made(node)` is called once, `$patched(node)` after each change.
 * A property is set when the description of it changes, so what people have typed or opened stays.
 */
export function h(tag, properties, ...children) {
  return { tag, properties: properties ?? {}, children };
}

/** Makes `parent` hold what `children` describe; nothing is shown for null, false and "". */
export function patch(parent, children) {
  const wanted = children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false && child !== "");
  const keyed = new Map();
  for (const node of parent.childNodes) if (node.key !== undefined) keyed.set(node.key, node);
  let at = parent.firstChild;
  for (const child of wanted) {
    const node = child.tag ? elementFor(child, at, keyed) : textFor(child, at);
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function textFor(text, at) {
  if (at?.nodeType !== Node.TEXT_NODE) return document.createTextNode(text);
  if (at.data !== String(text)) at.data = text;
  return at;
}

function elementFor({ tag, properties, children }, at, keyed) {
  const key = properties.key ?? properties.id;
  const found = key === undefined ? at : keyed.get(key);
  const fits = found?.localName === tag && found.key === key && (found === at || key !== undefined);
  const node = fits ? found : Object.assign(document.createElement(tag), { key });
  const old = node.described ?? {};
  for (const name of Object.keys(old)) if (!(name in properties)) set(node, name, undefined);
  patch(node, children); // before `value`, which a select finds among its options
  for (const [name, value] of Object.entries(properties)) if (value !== old[name]) set(node, name, value);
  node.described = properties;
  if (!fits) properties.$made?.(node);
  properties.$patched?.(node);
  return node;
}

function set(node, name, value) {
  if (name === "key" || name.startsWith("$")) return;
  if (name.includes("-") || ATTRIBUTES.has(name)) {
    if (value === undefined || value === null || value === false) node.removeAttribute(name);
    else node.setAttribute(name, value);
  } else if (name === "value" && node.localName === "progress") {
    if (value === undefined || value === null) node.removeAttribute("value");
    else node.value = value;
  } else {
    node[name] = value ?? (typeof node[name] === "boolean" ? false : name.startsWith("on") ? null : "");
  }
}
