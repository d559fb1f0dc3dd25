// What happens to a job: server-sent events over fetch, which can carry a key, taken up again where they broke.

import { call, open, Refused, Unreachable } from "./server.js";

const FIRST_BYTE = 5000; // the first event is sent at once: later, something in between holds them back
const SILENCE = 40_000; // a comment comes every 15 seconds
const PAUSE = 1000;
const LONGEST_PAUSE = 10_000;
const FINAL = ["completed", "failed", "cancelled"];

/**
 * Tells `onEvent({type, data})` of everything up to the job's end, and returns then.
 *
 * After a lost connection it goes on behind the last event; where no stream comes through it asks for the
 * job's state instead, once a second. `onLost(isLost)` tells when the server is out of reach. Throws Refused.
 */
export async function follow(id, onEvent, onLost = () => {}) {
  const path = `sdcpp/v1/jobs/${encodeURIComponent(id)}`;
  let seen = 0;
  let pause = PAUSE;
  let streams = true;
  for (;;) {
    try {
      if (streams) {
        for await (const event of stream(`${path}/events`, seen)) {
          onLost(false);
          pause = PAUSE;
          seen = Number(event.id);
          onEvent(event);
          if (FINAL.includes(event.type)) return;
        }
      } else {
        const state = await call(path);
        onLost(false);
        pause = PAUSE;
        onEvent({ type: FINAL.includes(state.status) ? state.status : "step", data: state });
        if (FINAL.includes(state.status)) return;
      }
    } catch (error) {
      if (error instanceof Refused && error.status < 500) throw error;
      if (error instanceof HeldBack) streams = false;
      else {
        onLost(true);
        pause = Math.min(pause * 1.5, LONGEST_PAUSE);
      }
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

class HeldBack extends Error {}

/** The events behind the one numbered `after`. */
async function* stream(path, after) {
  const stop = new AbortController();
  let got = false;
  let watch = setTimeout(() => stop.abort(), FIRST_BYTE);
  try {
    const answer = await open(path, { signal: stop.signal, headers: { "Last-Event-ID": String(after) } });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      got = true;
      clearTimeout(watch);
      watch = setTimeout(() => stop.abort(), SILENCE);
      const parts = (text + value).split("\n\n");
      text = parts.pop();
      for (const part of parts) {
        const event = parsed(part);
        if (event) yield event;
      }
    }
  } catch (error) {
    if (error instanceof Refused) throw error;
    throw stop.signal.aborted && !got && after === 0 ? new HeldBack() : new Unreachable(String(error));
  } finally {
    clearTimeout(watch);
    stop.abort();
  }
}

function parsed(part) {
  const event = { id: "0", type: "message", data: "" };
  for (const line of part.split("\n")) {
    const [, name, value] = /^(id|event|data): ?(.*)$/.exec(line) ?? [];
    if (name === "data") event.data += value;
    else if (name) event[name === "event" ? "type" : "id"] = value;
  }
  return event.data ? { ...event, data: JSON.parse(event.data) } : null;
}
