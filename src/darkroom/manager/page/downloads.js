// Downloads: what is on its way, what is done, what has failed.

import { call } from "./api.js";
import { h } from "./dom.js";
import { hurry, isActive, known } from "./live.js";
import { actButton, bar, empty, outside, problem } from "./parts.js";
import { bytes, roleWords, seconds } from "./words.js";

const WORDS = {
  queued: "Waiting",
  checking: "Checking what is here",
  downloading: "Downloading",
  paused: "Paused",
  interrupted: "Interrupted",
  completed: "Done",
  failed: "Failed",
  cancelled: "Cancelled",
};

export const title = () => "Downloads";

export function view() {
  const all = [...(known.downloads ?? [])].sort((a, b) => isActive(b) - isActive(a));
  return [
    h("div", { className: "head", key: "head" },
      h("div", { className: "row apart" }, h("h1", {}, "Downloads"), h("a", { className: "button", href: "#/add" }, "Add a model"))),
    known.downloads && !all.length ? h("div", { key: "none" }, empty("Nothing has been downloaded yet.")) : null,
    h("ul", { key: "list", className: "plain-list", "aria-label": "Downloads" }, all.map((download) =>
      h("li", { key: download.id, className: "card" },
        h("h2", {}, download.name),
        h("p", { className: "note" }, [roleWords(download.role), download.source, download.licence].filter(Boolean).join(" · ")),
        progressOf(download)))),
  ];
}

/** How far a download is, and what can be done about it. */
export function progressOf(download) {
  const { id, name, state, received, total, error } = download;
  const path = `v1/downloads/${encodeURIComponent(id)}`;
  const does = (what, label, work) =>
    actButton(`${what} ${id}`, label, async () => {
      await work();
      hurry("downloads", "models");
    }, { "aria-label": `${label} ${name}`, key: what === "cancel" ? "cancel" : "go" });
  const isHalf = ["paused", "interrupted", "failed"].includes(state);
  const words = [
    WORDS[state] ?? state,
    total && state !== "completed" ? `${bytes(received)} of ${bytes(total)}` : total ? bytes(total) : received ? bytes(received) : "",
    state === "downloading" && download.speed ? `${bytes(download.speed)}/s` : "",
    state === "downloading" && download.eta ? `${seconds(download.eta)} left` : "",
  ];
  return h("div", { key: `progress ${id}`, className: "progress" },
    isActive(download) || isHalf ? bar(`${name}: ${WORDS[state]}`, total ? received / total : state === "downloading" ? undefined : 0) : null,
    h("div", { className: "row apart" },
      h("p", { className: "figures" }, words.filter(Boolean).join(" · ")),
      h("div", { className: "row" },
        isActive(download) ? does("pause", "Pause", () => call(`${path}/pause`, { method: "POST" })) : null,
        isHalf ? does("resume", state === "failed" ? "Try again" : "Resume", () => call(`${path}/resume`, { method: "POST" })) : null,
        isActive(download) || isHalf ? does("cancel", "Cancel", () => call(path, { method: "DELETE" })) : null)),
    error && state !== "cancelled" ? h("p", { className: "wrong" }, error.message) : null,
    error?.details?.page ? h("p", { className: "note" }, "Accept its terms at ", outside(error.details.page, error.details.page), ", then try again.") : null,
    problem(`pause ${id}`), problem(`resume ${id}`), problem(`cancel ${id}`));
}
