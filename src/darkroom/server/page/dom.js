// Short words for the document.

export { byId } from "./by_id.js";
export { bytes, seconds } from "./amounts.js";

/** A new element. Properties are its own (`className`, `onclick`); names with a dash are attributes. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** Puts names and values into a `dl`; those without a value are left out. */
export function describe(list, facts) {
  const rows = facts.filter(([, value]) => value !== undefined && value !== null && value !== "");
  list.replaceChildren(
    ...rows.map(([name, value]) =>
      element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value })),
    ),
  );
}

/** Fills a `select` and keeps its choice where it is still there. */
export function fillSelect(select, values, label = (value) => value) {
  const before = select.value;
  select.replaceChildren(...values.map((value) => new Option(label(value), value)));
  if (values.includes(before)) select.value = before;
}
