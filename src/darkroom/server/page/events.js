// What happens to a job: server-sent events over fetch, which can carry a key, taken up again where they broke.

import { call, open, Refused, Unreachable } from "./api.js";
import { eventsOf } from "./sse.js";

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
    yield* eventsOf(answer, () => {
      got = true;
      clearTimeout(watch);
      watch = setTimeout(() => stop.abort(), SILENCE);
    });
  } catch (error) {
    if (error instanceof Refused) throw error;
    throw stop.signal.aborted && !got && after === 0 ? new HeldBack() : new Unreachable(String(error));
  } finally {
    clearTimeout(watch);
    stop.abort();
  }
}
