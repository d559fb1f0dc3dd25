// What the page knows of the manager, kept up to date while somebody looks.

import { announce } from "./announce.js";
import { call, Refused } from "./api.js";
import { lasting } from "./stream.js";
import { count, isLoading, stateWords } from "./words.js";

const EVERY = 1000; // while something goes on
const QUIETLY = 4000;
const ACTIVE = ["queued", "checking", "downloading"];

/** pool: statuses by model, null until they are known or where the key may not see them. */
export const known = {
  models: null,
  pool: null,
  limits: null,
  downloads: null,
  jobs: null,
  isAdmin: true,
  isLost: false,
};

let onChange = () => {};
let timers = {};

/** Keeps looking from now on, and tells of every change. */
export function watch(changed) {
  onChange = changed;
  look("models", "v1/models", takeModels, modelsMove);
  look("downloads", "v1/downloads", takeDownloads, downloadsMove);
  look("jobs", "v1/jobs?limit=60", (answer) => (known.jobs = answer.data), jobsMove);
  followPool();
  document.addEventListener("visibilitychange", () => !document.hidden && hurry("models", "downloads", "jobs"));
}

/** Looks at once: after something was changed. */
export function hurry(...names) {
  for (const name of names) timers[name]?.();
}

/** A model of the library, by its id. */
export const modelOf = (id) => known.models?.find((model) => model.id === id);

/** How the pool has a model: what the events say, else what the list of models says. */
export function statusOf(id) {
  return known.pool?.get(id) ?? { model: id, state: modelOf(id)?.state ?? "absent" };
}

export const isActive = (download) => ACTIVE.includes(download.state);
export const isOpen = (job) => ["queued", "generating"].includes(job.status);
const modelsMove = () => known.pool === null && known.models?.some((model) => isLoading(model.state));
const downloadsMove = () => known.downloads?.some(isActive);
const jobsMove = () => known.jobs?.some(isOpen);

function look(name, path, take, moves) {
  let timer = 0;
  let isAsking = false;
  const again = () => {
    clearTimeout(timer);
    if (!document.hidden) timer = setTimeout(ask, moves() ? EVERY : QUIETLY);
  };
  async function ask() {
    clearTimeout(timer);
    if (isAsking) return;
    isAsking = true;
    try {
      take(await call(path));
      known.isLost = false;
    } catch (error) {
      if (!(error instanceof Refused)) known.isLost = true;
    }
    isAsking = false;
    onChange();
    again();
  }
  timers[name] = ask;
  ask();
}

function takeModels({ data }) {
  known.models = data.filter((model) => !model.of);
  const isOld = known.models.some(({ id, state }) => (known.pool?.get(id)?.state ?? state) !== state);
  if (isOld) lookAtPool(); // events were missed: the manager was away
}

function takeDownloads({ data }) {
  for (const download of data) {
    const before = known.downloads?.find((other) => other.id === download.id);
    if (!before || before.state === download.state) continue;
    if (download.state === "completed") announce(`${download.name} is here`);
    if (download.state === "failed") announce(`The download of ${download.name} failed`);
    if (!isActive(download)) hurry("models");
  }
  known.downloads = data;
}

async function followPool() {
  try {
    known.limits = await call("admin/pool");
    known.pool = new Map(known.limits.models.map((status) => [status.model, status]));
    onChange();
    for await (const { type, data } of lasting("admin/pool/events", { onLost: () => hurry("models") })) {
      const status = data.model;
      const before = known.pool.get(status.model);
      known.pool.set(status.model, status);
      if (before && before.state !== status.state) tell(status, before);
      if (type !== "progress" && before?.state !== status.state) hurry("models");
      onChange();
    }
  } catch (error) {
    if (error instanceof Refused && error.status === 403) {
      known.isAdmin = false;
      known.pool = null;
      onChange();
    } else setTimeout(followPool, QUIETLY);
  }
}

/** Asks for what no event tells, such as how long a model still stays. */
export async function lookAtPool() {
  if (document.hidden || !known.pool) return;
  try {
    known.limits = await call("admin/pool");
    known.pool = new Map(known.limits.models.map((status) => [status.model, status]));
    onChange();
  } catch {
    // the events tell when the manager is away
  }
}

function tell({ model, state, failure }, before) {
  if (state === "ready" && isLoading(before.state)) announce(`${model} is loaded`);
  if (state === "absent") announce(`${model} is unloaded`);
  if (["failed", "quarantined"].includes(state)) announce(`${model}: ${failure?.message ?? stateWords(state)}`);
  if (state === "loading" && before.state !== "loading") announce(`${model} is being loaded`);
}

/** The line at the top: a state and its words. */
export function summary() {
  if (known.isLost) return ["failed", "The manager does not answer"];
  if (!known.models) return ["", "Connecting …"];
  const states = known.pool ? [...known.pool.values()].map((status) => status.state) : known.models.map((model) => model.state);
  const loaded = states.filter((state) => ["ready", "busy", "draining"].includes(state)).length;
  if (states.includes("busy")) return ["busy", "Drawing"];
  if (states.some((state) => ["starting", "loading", "validating"].includes(state))) return ["loading", "Loading a model"];
  return loaded ? ["ready", `${count(loaded, "model")} loaded`] : ["", "No model loaded"];
}
