// Numbers and states as people say them.

import { bytes, seconds } from "./amounts.js";

export { bytes, seconds };

/** at: seconds since 1970. */
export function ago(at) {
  const past = Date.now() / 1000 - at;
  if (past < 60) return "just now";
  if (past < 3600) return `${Math.floor(past / 60)} min ago`;
  if (past < 86400) return `${Math.floor(past / 3600)} h ago`;
  return new Date(at * 1000).toLocaleDateString();
}

export function count(number, one, many = `${one}s`) {
  return `${number} ${number === 1 ? one : many}`;
}

/** What comes last of a path, on any system. */
export function fileName(path) {
  return path.split(/[\\/]/).pop();
}

/** Where a published file is from: its repository, or its host. */
export function originOf(source) {
  return source.includes("://") ? new URL(source).host : source.split(":")[0];
}

const STATES = {
  absent: "not loaded",
  validating: "checking its files",
  queued: "waiting for room",
  starting: "starting",
  loading: "loading",
  ready: "loaded",
  busy: "drawing",
  draining: "finishing",
  stopping: "unloading",
  failed: "failed",
  quarantined: "quarantined",
};

export const stateWords = (state) => STATES[state] ?? state;

export const isLoading = (state) => ["validating", "queued", "starting", "loading"].includes(state);
export const isServing = (state) => ["ready", "busy", "draining"].includes(state);

const ROLES = {
  model: "Model",
  diffusion_model: "Diffusion network",
  vae: "VAE",
  clip_l: "CLIP-L",
  clip_g: "CLIP-G",
  t5xxl: "T5-XXL",
  llm: "LLM",
  llm_vision: "LLM vision",
  clip_vision: "CLIP vision",
  taesd: "Tiny autoencoder",
};

export const roleWords = (role) => ROLES[role] ?? role.replaceAll("_", " ");

const PHASES = {
  queue: "Waiting",
  load: "Loading the model",
  encode_text: "Reading the prompt",
  encode_image: "Looking at the picture",
  sample: "Drawing",
  decode: "Developing",
};

/** How far a job is, in one line. */
export function phaseWords(job) {
  if (job.status === "queued") {
    if (job.phase === "load") return job.bytes_total ? `Loading the model: ${bytes(job.bytes_read)} of ${bytes(job.bytes_total)}` : "Loading the model";
    return job.queue_position > 1 ? `Waiting, number ${job.queue_position} in line` : "Waiting";
  }
  if (!job.progress) return "Drawing; this engine does not tell its steps";
  const phase = PHASES[job.phase] ?? "Drawing";
  const step = job.phase === "sample" && job.steps ? `, step ${job.step} of ${job.steps}` : "";
  const which = job.images > 1 && job.image ? `picture ${job.image} of ${job.images}` : "";
  return [phase + step, which].filter(Boolean).join(" · ");
}

/** From 0 to 1; null where nothing is known. */
export function shareOf(job) {
  if (job.phase === "load" && job.bytes_total) return job.bytes_read / job.bytes_total;
  if (!job.steps || !["sample", "decode"].includes(job.phase)) return null;
  const done = job.phase === "decode" ? 1 : job.step / job.steps;
  return (Math.max(0, job.image - 1) + done) / (job.images || 1);
}
