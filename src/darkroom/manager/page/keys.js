// API keys: who may do what.

import { call, useKey } from "./api.js";
import { byId, h } from "./dom.js";
import { act, actButton, confirm, empty, isRunning, problem, refresh } from "./parts.js";
import { ago } from "./words.js";

const SCOPES = {
  images: "draw pictures",
  "jobs:read": "see its jobs",
  "models:write": "add and remove models",
  admin: "everything, keys and settings as well",
};

let keys = null;
let made = null;

export const title = () => "Keys";

export async function enter() {
  made = null;
  await look();
}

export function leave() {
  made = null;
}

async function look() {
  await act("keys", async () => {
    keys = (await call("admin/keys")).data;
  });
}

export function view() {
  const isFirst = keys?.length === 0;
  return [
    h("div", { className: "head", key: "head" }, h("h1", {}, "Keys"),
      h("p", { className: "note" }, isFirst ? "Nobody needs a key now. As soon as there is one, everybody does: the first should be your own, with admin. This tab uses it at once." : "Programs send a key as Authorization: Bearer …")),
    problem("keys"),
    made ? h("div", { key: "made", className: "card stack call", role: "status" },
      h("h2", {}, `The key of ${made.name}`), h("pre", { tabIndex: 0, "aria-label": "The key" }, made.key),
      h("p", { className: "row" }, h("button", { type: "button", onclick: copy }, "Copy"), h("span", { className: "note" }, "It is shown now and never again."))) : null,
    keys ? form(isFirst) : null,
    isFirst ? h("div", { key: "none" }, empty("There are no keys.")) : null,
    h("ul", { key: "list", className: "plain-list", "aria-label": "Keys" }, (keys ?? []).map((key) =>
      h("li", { key: key.id, className: "card" },
        h("div", { className: "row apart" }, h("h2", {}, key.name), actButton(`revoke ${key.id}`, "Revoke …", () => revoke(key), { "aria-label": `Revoke ${key.name}` })),
        h("p", { className: "note" }, [`dk-${key.id}-…`, key.scopes.join(", "), key.rate ? `${key.rate} requests a minute` : "", key.concurrency ? `${key.concurrency} at a time` : "", `made ${ago(key.created)}`].filter(Boolean).join(" · ")),
        problem(`revoke ${key.id}`)))),
  ];
}

function form(isFirst) {
  const limit = (name, words) => h("div", { className: "field" }, h("label", { for: name }, words), h("input", { id: name, type: "number", inputMode: "numeric", min: 1, step: 1, placeholder: "no limit" }));
  return h("form", { key: `form ${isFirst}`, className: "card stack", onsubmit: create, "aria-labelledby": "new-title" },
    h("h2", { id: "new-title" }, "New key"),
    h("div", { className: "field" }, h("label", { for: "key-name" }, "Name"), h("input", { id: "key-name", required: true, maxLength: 100, autocomplete: "off", placeholder: "whose it is, or what for" })),
    h("fieldset", {}, h("legend", {}, "May"),
      Object.entries(SCOPES).map(([scope, words]) => h("label", { key: scope, className: "check scope" },
        h("input", { type: "checkbox", name: "scope", value: scope, checked: isFirst ? scope === "admin" : scope === "images" || scope === "jobs:read" }), h("span", {}, h("code", {}, scope), ` ${words}`)))),
    h("div", { className: "two" }, limit("rate", "Requests a minute"), limit("concurrency", "At the same time")),
    problem("create"),
    h("p", {}, h("button", { className: "main", "aria-disabled": isRunning("create") || null }, "Make the key")));
}

async function create(event) {
  event.preventDefault();
  const target = event.target;
  const number = (name) => (byId(name).value ? Number(byId(name).value) : null);
  const scopes = [...target.querySelectorAll("[name=scope]:checked")].map((box) => box.value);
  await act("create", async () => {
    const isFirst = keys.length === 0;
    made = await call("admin/keys", { body: { name: byId("key-name").value.trim(), scopes, rate: number("rate"), concurrency: number("concurrency") } });
    if (isFirst) useKey(made.key);
    target.reset();
  });
  await look();
}

async function revoke(key) {
  if (!(await confirm(`Revoke ${key.name}?`, "Whoever uses it is refused from now on.", "Revoke"))) return;
  await call(`admin/keys/${encodeURIComponent(key.id)}`, { method: "DELETE" });
  await look();
  refresh();
}

async function copy(event) {
  const before = event.target.closest("div").querySelector("pre");
  try {
    await navigator.clipboard.writeText(made.key);
    event.target.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(before); // the clipboard is closed to pages without HTTPS
  }
}
