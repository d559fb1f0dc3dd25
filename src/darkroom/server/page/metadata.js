// What pictures say about how they were made.

import { byId, describe } from "./dom.js";
import { base64Of, readPicture, show } from "./pictures.js";
import { call } from "./api.js";

/** What A1111 calls the settings, for people in this order. */
const SHOWN = ["Seed", "Size", "Steps", "CFG scale", "Guidance", "Sampler", "Schedule type", "Denoising strength", "Model", "Version"];

let read = null; // {picture, settings}

/** onUse(settings): the settings are wanted. onStart(picture): the picture is, to start from. */
export function prepare({ onUse, onStart }) {
  const close = () => byId("reader").close();
  byId("reader-close").addEventListener("click", close);
  byId("reader-use").addEventListener("click", () => {
    close();
    onUse(read.settings);
  });
  byId("reader-start").addEventListener("click", () => {
    close();
    onStart(read.picture);
  });
}

/** Opens a picture and shows what it says. Throws an Error for people. */
export async function openPicture(file, capabilities) {
  const picture = await readPicture(file);
  const told = await call("sdapi/v1/png-info", { body: { image: await base64Of(picture.blob) } });
  const { parameters, info } = told;
  const isTold = Boolean(info);
  read = { picture, settings: isTold ? settingsOf(parameters, capabilities, await samplers()) : null };
  show(byId("reader-image"), picture.blob);
  byId("reader-note").textContent = isTold ? parameters.Prompt : "This picture does not say how it was made.";
  const negative = parameters["Negative prompt"];
  describe(byId("reader-facts"), [["Not in the picture", negative], ...SHOWN.map((name) => [name, shortened(parameters[name])])]);
  byId("reader-text").textContent = info;
  byId("reader-raw").hidden = byId("reader-use").hidden = !isTold;
  byId("reader").showModal();
}

/** A1111's names of the samplers and their other names. */
async function samplers() {
  try {
    return await call("sdapi/v1/samplers");
  } catch {
    return [];
  }
}

/** The form's settings of A1111's parameters; what this server does not know is left out. */
function settingsOf(told, { samplers: methods, schedulers }, known) {
  const [sampler, scheduler] = methodOf(told.Sampler ?? "", told["Schedule type"] ?? "", { methods, schedulers, known });
  const settings = {
    prompt: told.Prompt,
    negative: told["Negative prompt"] ?? "",
    width: number(told["Size-1"]),
    height: number(told["Size-2"]),
    steps: number(told.Steps),
    cfg: number(told["CFG scale"]),
    guidance: number(told.Guidance ?? told["Distilled CFG Scale"]),
    seed: /^\d{1,19}$/.test(told.Seed ?? "") ? told.Seed : undefined,
    clip_skip: number(told["Clip skip"]),
    strength: number(told["Denoising strength"]),
    sampler,
    scheduler,
  };
  return Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined));
}

/** Both in this server's names: "euler_a karras", or A1111's "Euler a" and "Karras", or "DPM++ 2M Karras". */
function methodOf(text, schedule, { methods, schedulers, known }) {
  const words = text.trim().split(" ");
  const last = schedulers.find((name) => name === words.at(-1)?.toLowerCase());
  const name = (last && words.length > 1 ? words.slice(0, -1) : words).join(" ").toLowerCase();
  const alike = known.find((one) => [one.name, ...one.aliases].some((other) => other.toLowerCase() === name));
  const method = methods.find((one) => one === name || alike?.aliases.includes(one));
  const plain = (schedule || (words.length > 1 && last) || "").toLowerCase().replaceAll(" ", "_");
  return [method, schedulers.find((one) => one === plain)];
}

function number(text) {
  const value = Number.parseFloat(text);
  return Number.isFinite(value) ? value : undefined;
}

/** Without the zeros that pad a number. */
function shortened(text) {
  return /^\d+\.\d+$/.test(text ?? "") ? String(Number(text)) : text;
}
