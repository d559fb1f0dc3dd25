// Calls to the manager that the page came from, with a key where it asks for one.

import { byId } from "./dom.js";

const KEY = "darkroom.key";

/** The manager refused: its own words. */
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

let key = remembered();
let unlocking = null;

/** The answer's JSON. body: with it, or another method, something is changed. Throws Refused, Unreachable. */
export async function call(path, { method, body, headers = {} } = {}) {
  const answer = await open(path, {
    method: method ?? (body === undefined ? "GET" : "POST"),
    body: body === undefined ? undefined : JSON.stringify(body),
    headers: body === undefined ? headers : { ...headers, "Content-Type": "application/json" },
  });
  try {
    return await answer.json();
  } catch (error) {
    throw new Unreachable(String(error));
  }
}

/** The answer, once the manager has agreed. Asks for the key, as often as it takes. */
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
  try {
    sessionStorage.setItem(KEY, text);
  } catch {
    // a browser that keeps nothing
  }
}

function remembered() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null;
  }
}

async function send(path, options) {
  try {
    // without credentials the browser does not ask for a password of its own
    return await fetch(new URL(path, document.baseURI), { cache: "no-store", credentials: "omit", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable("The manager does not answer.");
  }
}

async function refusal(answer) {
  let told = {};
  try {
    told = await answer.json();
  } catch {
    // an answer of something between here and the manager
  }
  const error = typeof told.error === "object" && told.error ? told.error : { ...told, message: told.error ?? told.message };
  return new Refused(answer.status, { ...error, message: error.message ?? `${answer.status} ${answer.statusText}` });
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
  byId("view").hidden = true;
  text.setAttribute("aria-invalid", String(isWrong));
  if (isWrong) byId("key-problem").textContent = "That is not a key of this manager. Another one?";
  text.focus();
  text.select();
  return new Promise((resolve) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      useKey(text.value.trim());
      form.hidden = true;
      byId("view").hidden = false;
      byId("view").focus();
      resolve();
    };
  });
}
