// Requests that outlive this page: what waits, what is drawn, what is done.

import { call } from "./api.js";
import { h } from "./dom.js";
import { hurry, isOpen, known } from "./live.js";
import { actButton, bar, empty, linkTo, problem, refresh } from "./parts.js";
import { picture } from "./pictures.js";
import { ago, count, phaseWords, seconds, shareOf } from "./words.js";

const FILTERS = { all: "All", open: "Open", completed: "Done", failed: "Not done" };
const WORDS = { completed: "done", failed: "failed", cancelled: "cancelled", interrupted: "interrupted" };

let filter = "all";

export const title = () => "Jobs";

export function view() {
  const jobs = (known.jobs ?? []).filter((job) => filter === "all" || (filter === "open" ? isOpen(job) : filter === "completed" ? job.status === "completed" : !isOpen(job) && job.status !== "completed"));
  return [
    h("div", { className: "head", key: "head" }, h("h1", {}, "Jobs"),
      h("p", { className: "note" }, "Jobs that wait survive a restart of the manager. One that was being drawn then can be tried again.")),
    h("div", { key: "filters", className: "row", role: "group", "aria-label": "Show" }, Object.entries(FILTERS).map(([name, words]) =>
      h("button", { type: "button", key: name, "aria-pressed": String(name === filter), onclick: () => { filter = name; refresh(); } }, words))),
    known.jobs && !jobs.length ? h("div", { key: "none" }, empty(filter === "all" ? "Nothing has been drawn yet." : "None.")) : null,
    h("ul", { key: "list", className: "plain-list", "aria-label": "Jobs" }, jobs.map(card)),
  ];
}

function card(job) {
  const path = `v1/jobs/${encodeURIComponent(job.id)}`;
  const prompt = job.prompt || "without a prompt";
  const first = job.result && picture(job.result.images[0].url);
  const link = `${linkTo(job.model, "draw")}?job=${encodeURIComponent(job.id)}`;
  return h("li", { key: job.id, className: "card job" }, h("div", { className: "words" },
    h("div", { className: "row apart" },
      h("h2", { className: "prompt" }, h("a", { href: link }, prompt)),
      h("span", { className: `pill ${{ completed: "good", failed: "bad", interrupted: "warn" }[job.status] ?? ""}`, "data-state": job.status === "generating" ? "busy" : "" },
        isOpen(job) ? h("span", { className: "lamp", "aria-hidden": "true" }) : null, job.status === "queued" ? "queued" : job.status === "generating" ? "running" : WORDS[job.status])),
    isOpen(job) ? h("div", { className: "progress" }, bar(`Progress of ${prompt}`, shareOf(job) ?? (job.status === "queued" && job.phase !== "load" ? 0 : undefined)), h("p", { className: "figures" }, phaseWords(job))) : null,
    job.error && job.status !== "cancelled" ? h("p", { className: "wrong" }, job.error.message) : null,
    h("div", { className: "row apart" },
      h("p", { className: "note" }, [
        job.model, ago(job.created),
        job.result ? count(job.result.images.length, "picture") : "",
        job.completed && job.started ? seconds(job.completed - job.started) : "",
        job.attempt > 1 ? `try ${job.attempt}` : "",
      ].filter(Boolean).join(" · ")),
      h("div", { className: "row" },
        isOpen(job) ? actButton(`cancel ${job.id}`, "Cancel", change(path, { method: "DELETE" }), { key: "do", "aria-label": `Cancel ${prompt}` }) : null,
        ["failed", "cancelled", "interrupted"].includes(job.status) ? actButton(`retry ${job.id}`, "Try again", change(`${path}/retry`, { method: "POST" }), { key: "do", "aria-label": `Try again: ${prompt}` }) : null)),
    problem(`cancel ${job.id}`), problem(`retry ${job.id}`)),
    first ? h("a", { href: link, tabIndex: -1, "aria-hidden": "true" }, h("img", { key: first, src: first, alt: "" })) : null);
}

const change = (path, how) => async () => {
  await call(path, how);
  hurry("jobs");
};
