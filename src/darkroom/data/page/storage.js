// What the browser remembers. Where it remembers nothing (private windows), all works without.

function store(kind) {
  return {
    read(name, otherwise = null) {
      try {
        return JSON.parse(window[kind].getItem(`darkroom.${name}`)) ?? otherwise;
      } catch {
        return otherwise;
      }
    },
    write(name, value) {
      try {
        window[kind].setItem(`darkroom.${name}`, JSON.stringify(value));
      } catch {
        // full or forbidden
      }
    },
  };
}

/** Across visits: the settings. */
export const lasting = store("localStorage");

/** As long as the tab is open: the key, and the jobs that were asked for. */
export const ofTab = store("sessionStorage");
