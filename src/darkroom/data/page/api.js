// Calls to the server that the page came from, with a key where it asks for one.

import { byId } from "./by_id.js";
import { ofTab } from "./storage.js";

/** The server refused: its own words. */
export class Refused extends Error {
  constructor(status, { message, code = null, details = null }) {
    super(message);
    this.status = status;
    this.code = code;
    this.details = details;
  }
}

/** There was no answer. */
export class Unreachable extends Error {}

let key = ofTab.read("key");
let unlocking = null;

/**
 * The answer's JSON. body: JSON as text, or what becomes it; with it, or another method, something is changed.
 * Throws Refused, Unreachable.
 */
export async function call(path, { method, body, headers = {} } = {}) {
  const answer = await open(path, {
    method: method ?? (body === undefined ? "GET" : "POST"),
    body: body === undefined || typeof body === "string" ? body : JSON.stringify(body),
    headers: body === undefined ? headers : { ...headers, "Content-Type": "application/json" },
  });
  try {
    return await answer.json();
  } catch (error) {
    throw new Unreachable(String(error));
  }
}

/** The answer, once the server has agreed. Asks for the key, as often as it takes. */
export async function open(path, { headers = {}, ...rest } = {}) {
  for (;;) {
    const used = key;
    const answer = await send(path, { ...rest, headers: used ? { ...headers, "X-Api-Key": encoded(used) } : headers });
    if (answer.status !== 401) {
      if (answer.ok) return answer;
      throw await refusal(answer);
    }
    await unlocked(used);
  }
}

/** From now on this key is used. */
export function useKey(text) {
  key = text;
  ofTab.write("key", text);
}

async function send(path, options) {
  try {
    // without credentials the browser does not ask for a password of its own
    return await fetch(new URL(path, document.baseURI), { cache: "no-store", credentials: "omit", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("Darkroom does not answer.");
  }
}

async function refusal(answer) {
  let told = {};
  try {
    told = await answer.json();
  } catch {
    // an answer of something between here and the server
  }
  const error = typeof told.error === "object" && told.error ? told.error : { ...told, message: told.message ?? told.detail ?? told.error };
  return new Refused(answer.status, { ...error, message: String(error.message ?? `${answer.status} ${answer.statusText}`) });
}

/** Headers are bytes: the key's UTF-8, written as the characters of those bytes. */
function encoded(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

/** Waits until there is another key than `wrong`. */
function unlocked(wrong) {
  if (key !== wrong) return Promise.resolve(); // another call has asked meanwhile
  unlocking ??= askForKey(wrong !== null).finally(() => (unlocking = null));
  return unlocking;
}

function askForKey(isWrong) {
  const form = byId("key");
  const text = byId("key-text");
  form.hidden = false;
  document.body.dataset.locked = "";
  text.setAttribute("aria-invalid", String(isWrong));
  if (isWrong) byId("key-problem").textContent = "That key does not fit. Another one?";
  text.focus();
  text.select();
  return new Promise((resolve) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      useKey(text.value.trim());
      form.hidden = true;
      delete document.body.dataset.locked;
      byId(form.dataset.then).focus();
      resolve();
    };
  });
}
