// The page: its ways, its views, and what goes on in all of them.

import * as add from "./add.js";
import { byId, h, patch } from "./dom.js";
import * as downloads from "./downloads.js";
import * as jobs from "./jobs.js";
import * as keys from "./keys.js";
import { isActive, isOpen, known, summary, watch } from "./live.js";
import * as model from "./model.js";
import * as models from "./models.js";
import { forgetProblems, onRefresh, refresh } from "./parts.js";
import * as pool from "./pool.js";

const VIEWS = { models, add, model, pool, downloads, jobs, keys };

let route = null;
let isFirst = true;

/** `#/models/flux-dev%3Aq4/draw?job=7` -> {name, words, query} */
function parsed(hash) {
  const [path, query] = hash.replace(/^#\/?/, "").split("?");
  const [name = "", ...words] = path.split("/").map(decode);
  const view = name === "models" && words[0] ? "model" : name in VIEWS && name !== "model" ? name : "models";
  return { name: view, words, query: new URLSearchParams(query ?? "") };
}

function decode(word) {
  try {
    return decodeURIComponent(word);
  } catch {
    return word;
  }
}

function go() {
  if (location.hash === "#view") return;
  const before = route;
  const old = before && VIEWS[before.name];
  route = parsed(location.hash);
  const view = VIEWS[route.name];
  if (old && (old !== view || before.words[0] !== route.words[0] || before.words[1] !== route.words[1])) old.leave?.(before);
  const isElsewhere = before?.name !== route.name || before.words[0] !== route.words[0];
  if (isElsewhere) forgetProblems();
  view.enter?.(route, before);
  draw();
  if (!isFirst && isElsewhere) {
    byId("view").focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  isFirst = false;
}

function draw() {
  if (!route) return;
  const view = VIEWS[route.name];
  document.title = `${view.title(route)} · Darkroom`;
  patch(byId("nav"), ways());
  patch(byId("view"), [view.view(route)]);
  const [state, words] = summary();
  byId("state").dataset.state = state;
  if (byId("state-text").textContent !== words) byId("state-text").textContent = words;
}

function ways() {
  const loading = (known.downloads ?? []).filter(isActive).length;
  const open = (known.jobs ?? []).filter(isOpen).length;
  const all = [
    ["models", "Models", 0, ""],
    known.isAdmin && ["pool", "Pool", 0, ""],
    ["downloads", "Downloads", loading, "under way"],
    ["jobs", "Jobs", open, "open"],
    known.isAdmin && ["keys", "Keys", 0, ""],
  ];
  const here = { add: "models", model: "models" }[route.name] ?? route.name;
  return all.filter(Boolean).map(([name, title, number, what]) =>
    h("li", { key: name }, h("a", { href: `#/${name}`, "aria-current": name === here ? "page" : null },
      title, number ? h("span", { className: "number" }, number, h("span", { className: "unseen" }, ` ${what}`)) : null)),
  );
}

onRefresh(draw);
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("view").focus();
});
addEventListener("hashchange", go);
go();
watch(refresh);
setInterval(() => !document.hidden && refresh(), 10_000); // "3 min ago"
