// What a page must keep for everybody. Each function gives what is wrong, as texts.
({
  controls: "a[href], button, input:not([type=hidden]), select, textarea, summary, progress, canvas, [tabindex]",

  shown(selector) {
    return [...document.querySelectorAll(selector)].filter(
      (it) => it.checkVisibility({ visibilityProperty: true }) && it.getClientRects().length,
    );
  },

  /** Controls without an accessible name. */
  unnamed() {
    const text = (id) => document.getElementById(id)?.textContent;
    return this.shown(this.controls)
      .filter((it) => {
        const by = (it.getAttribute("aria-labelledby") ?? "").split(" ").map(text);
        const labels = [...(it.labels ?? [])].map((label) => label.textContent);
        const own = ["BUTTON", "A", "SUMMARY"].includes(it.tagName) ? it.textContent : "";
        return ![it.getAttribute("aria-label"), ...by, ...labels, own].some((name) => name?.trim());
      })
      .map((it) => it.outerHTML.slice(0, 120));
  },

  /** Text with less contrast than 4.5:1 (WCAG 2.2, 1.4.3). Disabled controls may have less. */
  faint() {
    const exempt = "svg, noscript, .skip, :disabled, [aria-disabled=true]";
    const found = [];
    for (const it of this.shown("body *")) {
      const hasText = [...it.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
      const isField = it.matches("input, textarea, select") && it.type !== "checkbox" && it.type !== "range";
      if (!(hasText || isField) || it.closest(exempt)) continue;
      const isEmpty = isField && !it.value && it.placeholder;
      const ink = getComputedStyle(it, isEmpty ? "::placeholder" : null).color;
      const [more, less] = [this.light(ink), this.light(this.ground(it))].sort((a, b) => b - a);
      const contrast = (more + 0.05) / (less + 0.05);
      if (contrast < 4.5) found.push(`${contrast.toFixed(2)} ${it.outerHTML.slice(0, 100)}`);
    }
    return found;
  },

  rgba(colour) {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d");
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  },

  /** Relative luminance. */
  light(colour) {
    return this.rgba(colour)
      .slice(0, 3)
      .map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
      .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
  },

  /** The colour behind an element. */
  ground(it) {
    for (let at = it; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (this.rgba(colour)[3] === 255) return colour;
    }
    return "Canvas";
  },

  /** Controls that are hard to hit: below 24 pixels (WCAG 2.2, 2.5.8). */
  small() {
    return this.shown(this.controls)
      .filter((it) => !it.matches("progress, pre, section, .skip"))
      .map((it) => [it.getBoundingClientRect(), it])
      .filter(([box]) => box.width < 24 || box.height < 24)
      .map(([box, it]) => `${box.width} x ${box.height} ${it.outerHTML.slice(0, 100)}`);
  },

  /** The page or an open dialog that is wider than the window. */
  wide() {
    const page = document.scrollingElement;
    return [page, ...document.querySelectorAll("dialog[open]")]
      .filter((it) => it.scrollWidth > it.clientWidth || it.getBoundingClientRect().right > page.clientWidth)
      .map((it) => `${it.tagName} ${it.scrollWidth} of ${page.clientWidth}`);
  },

  /** Where the focus is, and whether it can be seen there. */
  focus() {
    const it = document.activeElement;
    const style = getComputedStyle(it);
    const box = it.getBoundingClientRect();
    const bar = document.querySelector(".draw").getBoundingClientRect();
    const isCovered = !it.closest(".draw") && box.top >= bar.top && box.left < bar.right;
    return {
      name: it.id || it.textContent.trim().slice(0, 30) || it.tagName,
      isBody: it === document.body,
      ring: style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth),
      isSeen: box.bottom > 0 && box.top < innerHeight && !isCovered,
      place: [...document.querySelectorAll("*")].indexOf(it),
    };
  },

  /** Begins to note what a screen reader is told, and when. */
  listen() {
    const region = document.getElementById("announcer");
    window.told = [];
    const note = () => window.told.push([performance.now(), region.textContent]);
    new MutationObserver(note).observe(region, { childList: true });
  },
})
