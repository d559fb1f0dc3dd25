// What several views are made of, and what people set going in them.

import { byId, h } from "./dom.js";
import { isLoading, isServing, stateWords } from "./words.js";

let draw = () => {};
let isWaiting = false;

/** Who draws the page. */
export function onRefresh(how) {
  draw = how;
}

/** Draws the page once, soon. */
export function refresh() {
  if (isWaiting) return;
  isWaiting = true;
  queueMicrotask(() => {
    isWaiting = false;
    draw();
  });
}

const running = new Set();
const problems = new Map();

/** Does `work`, which is called `name` meanwhile; what goes wrong is kept for `problem(name)`. */
export async function act(name, work) {
  if (running.has(name)) return undefined;
  running.add(name);
  refresh();
  try {
    const done = await work();
    problems.delete(name);
    return done;
  } catch (error) {
    problems.set(name, error);
    return undefined;
  } finally {
    running.delete(name);
    refresh();
  }
}

export const isRunning = (name) => running.has(name);
/** Another view: what went wrong in the last one is past. */
export const forgetProblems = () => problems.clear();
export const failed = (name) => problems.get(name);

/** What went wrong with `name`, in the manager's words. more: what can be done about it. */
export function problem(name, ...more) {
  const error = problems.get(name);
  if (!error) return null;
  const tail = error.details?.tail;
  return h("div", { className: "problem", role: "alert", key: `problem ${name}` },
    h("p", {}, error.message),
    tail?.length ? h("details", {}, h("summary", {}, "What its process said last"), h("pre", { tabIndex: 0, "aria-label": "Last lines" }, tail.join("\n"))) : null,
    ...more,
  );
}

/** A button that does something with the manager; it keeps the focus meanwhile. */
export function actButton(name, label, work, properties = {}) {
  return h("button", { type: "button", ...properties, key: properties.key ?? name, "aria-disabled": running.has(name) || null, onclick: () => act(name, work) }, label);
}

export function bar(label, share, key = "bar") {
  return h("progress", { key, max: 1, value: share, "aria-label": label });
}

/** The state of a model in the pool. */
export function statePill(state) {
  const kind = state === "busy" ? "busy" : isServing(state) ? "ready" : isLoading(state) || state === "stopping" ? "loading" : ["failed", "quarantined"].includes(state) ? "failed" : "";
  return h("span", { className: "pill", "data-state": kind }, h("span", { className: "lamp", "aria-hidden": "true" }), stateWords(state));
}

/** Facts as a `dl`; those without a value are left out. */
export function facts(rows, className = "facts") {
  return h("dl", { className },
    rows.filter((row) => row && row[1] !== undefined && row[1] !== null && row[1] !== "")
      .map(([name, value]) => h("div", { key: name }, h("dt", {}, name), h("dd", {}, value))));
}

export function empty(text, ...more) {
  return h("div", { className: "empty" }, h("p", {}, text), ...more);
}

/** A link to another site, which learns nothing of this one. */
export function outside(href, ...children) {
  const safe = /^https?:\/\//.test(href ?? "");
  return safe ? h("a", { href, target: "_blank", rel: "noopener noreferrer" }, ...children) : h("span", {}, ...children);
}

export const linkTo = (model, tab = "") => `#/models/${encodeURIComponent(model)}${tab ? `/${tab}` : ""}`;

/** Asks before something that cannot be undone. */
export function confirm(title, text, yes) {
  const dialog = byId("confirm");
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-yes").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}
