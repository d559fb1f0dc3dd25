// Samplers and schedules, as the manager names them.

import { call } from "./api.js";
import { refresh } from "./parts.js";

const NAME = { samplers: (item) => item.aliases[0], schedulers: (item) => item.name };
const lists = { samplers: null, schedulers: null };

function list(what) {
  if (!lists[what]) {
    lists[what] = [];
    call(`sdapi/v1/${what}`).then(
      ([, ...items]) => { // the first one leaves the choice to the model
        lists[what] = items.map(NAME[what]);
        refresh();
      },
      () => (lists[what] = null),
    );
  }
  return lists[what] ?? [];
}

export const samplers = () => list("samplers");
export const schedulers = () => list("schedulers");
