// The picture that is looked at, or how far it is.

import { h } from "./dom.js";
import { actButton, bar, facts, isRunning, linkTo, problem } from "./parts.js";
import { picture, previewUrl } from "./pictures.js";
import { settingsOf } from "./infotext.js";
import { phaseWords, seconds, shareOf } from "./words.js";

/** shown: {job, preview, index}, or null. */
export function stage(shown, { examples, onExample, onPick, onUse, onCancel, onRetry }) {
  const job = shown?.job;
  const open = job && ["queued", "generating"].includes(job.status);
  return h("section", { key: "stage", id: "stage", tabIndex: -1, "aria-label": "Picture", "data-state": open ? "busy" : "" },
    h("div", { className: "frame" }, !job ? invitation(examples, onExample) : open ? growing(shown) : job.result ? done(shown) : h("p", { className: "note" }, job.status === "cancelled" ? "Cancelled" : "No picture")),
    open ? progress(job, onCancel) : null,
    job?.result ? about(shown, onPick, onUse) : null,
    job && !open && !job.result ? failure(job, onRetry) : null,
    problem("cancel"));
}

const invitation = (examples, onExample) => h("div", { key: "invitation", className: "invitation" },
  h("img", { src: "assets/tray.svg", alt: "" }), h("p", {}, "What shall be drawn?"),
  h("ul", { "aria-label": "Prompts to try" }, examples.map((prompt) =>
    h("li", { key: prompt }, h("button", { type: "button", onclick: () => onExample(prompt) }, prompt)))));

function growing({ job, preview }) {
  if (!preview) return h("div", { className: "sheet", "aria-hidden": "true" });
  const src = previewUrl(preview);
  return h("img", { key: "preview", className: "fit", src, alt: `The picture at step ${preview.step}: ${job.prompt ?? ""}`, width: preview.width, height: preview.height });
}

function done({ job, index }) {
  const src = picture(job.result.images[index].url);
  return src ? h("img", { key: src, className: "fit", src, alt: job.prompt || "The picture" }) : h("div", { className: "sheet", "aria-hidden": "true" });
}

function progress(job, onCancel) {
  const share = shareOf(job);
  return h("div", { className: "progress", key: "progress" },
    bar("The picture", share ?? undefined),
    h("div", { className: "row apart" },
      h("p", { className: "figures" }, [phaseWords(job), job.eta ? `${seconds(job.eta)} left` : ""].filter(Boolean).join(" · ")),
      h("button", { type: "button", id: "cancel", "aria-disabled": isRunning("cancel") || null, onclick: onCancel }, "Cancel")));
}

function about({ job, index }, onPick, onUse) {
  const { images, output_format: format } = job.result;
  const image = images[index];
  const told = settingsOf(image.infotext ?? "");
  const { width, height, steps, cfg } = told;
  const src = picture(image.url);
  return h("div", { key: "about", className: "stack" },
    images.length > 1 ? h("ol", { className: "thumbs", "aria-label": "Pictures of this job" }, images.map((each, at) => {
      const small = picture(each.url);
      return h("li", { key: each.url }, h("button", { type: "button", "aria-label": `Picture ${at + 1}`, "aria-current": at === index ? "true" : null, onclick: () => onPick(at) }, small ? h("img", { key: small, src: small, alt: "" }) : null));
    })) : null,
    h("p", { className: "about-prompt" }, job.prompt),
    facts([["Seed", told.seed ?? image.seed], ["Size", width ? `${width} × ${height}` : null], ["Steps", steps], ["CFG", cfg], ["Took", job.started ? seconds(job.completed - job.started) : null]]),
    h("p", { className: "row" },
      src ? h("a", { key: "download", className: "button", href: src, download: `${job.model.replace(/[^\w.-]+/g, "-")}-${image.seed ?? job.id}.${format}` }, "Download") : null,
      h("button", { type: "button", key: "use", id: "use", onclick: () => onUse(image) }, "Use again")),
    image.infotext ? h("details", { key: "meta" }, h("summary", {}, "Metadata"), h("pre", { tabIndex: 0, "aria-label": "Metadata" }, image.infotext)) : null);
}

function failure(job, onRetry) {
  const isMissing = job.error?.code?.startsWith("model_component");
  const tail = job.error?.details?.tail;
  return h("div", { key: "failure", className: job.status === "cancelled" ? "stack" : "problem" },
    job.status === "cancelled" ? null : h("p", {}, job.error?.message ?? job.status),
    isMissing ? h("p", {}, h("a", { href: linkTo(job.model) }, "Its components")) : null,
    tail?.length ? h("details", {}, h("summary", {}, "What its process said last"), h("pre", { tabIndex: 0, "aria-label": "Last lines" }, tail.join("\n"))) : null,
    h("p", {}, actButton("draw", "Try again", onRetry, { key: "retry" })));
}
