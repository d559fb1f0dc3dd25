// Every process: its model, what it holds, what it does.

import { byId, h } from "./dom.js";
import { known, lookAtPool } from "./live.js";
import { loadButtons, load } from "./model.js";
import { bar, empty, facts, linkTo, problem, statePill } from "./parts.js";
import { bytes, isLoading, seconds } from "./words.js";

const EVERY = 2000;

let timer = 0;

export const title = () => "Pool";

export function enter() {
  lookAtPool();
  timer = setInterval(lookAtPool, EVERY);
}

export function leave() {
  clearInterval(timer);
}

export function view() {
  const { limits, pool } = known;
  const shown = [...(pool?.values() ?? [])].filter((status) => status.state !== "absent" || status.pinned || status.failure);
  const idle = (known.models ?? []).filter((model) => (pool?.get(model.id)?.state ?? "absent") === "absent");
  return [
    h("div", { className: "head", key: "head" }, h("h1", {}, "Pool"),
      limits ? h("p", { className: "note" }, `Each loaded model has a process of its own, on a port from ${limits.ports[0]} to ${limits.ports[1]}, at most ${limits.max_loaded} at a time${limits.memory_budget ? `, in ${bytes(limits.memory_budget)}` : ""}. When room is short, the ${limits.eviction === "lru" ? "one that was used longest ago" : "cheapest to bring back"} goes.`) : null),
    h("form", { key: "load", className: "row", onsubmit: (event) => { event.preventDefault(); load(byId("to-load").value); } },
      h("label", { for: "to-load" }, "Load a model"),
      h("select", { id: "to-load", className: "narrow" }, idle.map((model) => h("option", { key: model.id, value: model.id }, model.id))),
      h("button", { disabled: !idle.length }, "Load")),
    idle.map((model) => problem(`load ${model.id}`)),
    pool && !shown.length ? h("div", { key: "none" }, empty("No model is loaded. The first request for one loads it.")) : null,
    h("ul", { key: "list", className: "plain-list", "aria-label": "Processes" }, shown.map(card)),
  ];
}

function card(status) {
  const id = status.model;
  const share = status.bytes_total ? status.bytes_read / status.bytes_total : undefined;
  return h("li", { key: id, className: "card process" },
    h("div", { className: "row apart" },
      h("div", { className: "row" }, h("h2", {}, h("a", { href: linkTo(id) }, id)), statePill(status.state), status.pinned ? h("span", { className: "pill" }, "pinned") : null),
      h("div", { className: "row" }, loadButtons(id, status))),
    isLoading(status.state) ? h("div", { className: "progress" }, bar(`${id} is being loaded`, share),
      h("p", { className: "figures" }, status.bytes_total ? `${bytes(status.bytes_read)} of ${bytes(status.bytes_total)}` : "Preparing …")) : null,
    facts([
      ["Memory", Object.entries(status.memory).filter(([, held]) => held).map(([device, held]) => `${bytes(held)} ${device === "ram" ? "RAM" : device}`).join(", ")],
      ["Port", status.port],
      ["Process", status.pid],
      ["Engine", status.engine],
      ["Requests", status.pid ? (status.leases || status.waiting ? `${status.leases} at work, ${status.waiting} waiting` : "none") : null],
      ["Memory rung", status.rung ? `${status.rung}: ${status.rung_name}` : null],
      ["Loaded in", status.load_seconds ? seconds(status.load_seconds) : null],
      ["Unloads in", status.unloads_in !== null && status.unloads_in !== undefined ? seconds(status.unloads_in) : status.pid && status.pinned ? "never" : null],
      ["Restarts", status.restarts || null],
    ]),
    status.failure && ["failed", "quarantined"].includes(status.state) ? h("p", { className: "wrong" }, status.failure.message) : null,
    problem(`load ${id}`), problem(`unload ${id}`), problem(`pin ${id}`));
}
