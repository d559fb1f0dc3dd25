// Painting a mask over a picture: by mouse, finger or pen, or by keyboard.

import { byId } from "./dom.js";
import { show } from "./pictures.js";

const LONGEST = 1536; // pixels of the mask's longer side: the server brings it to the picture's size
const COLOUR = "#ff3d2e";

const dialog = byId("masking");
const canvas = byId("easel-canvas");
const brush = byId("brush");
const size = byId("brush-size");
const context = canvas.getContext("2d");

let strokes = [];
let cursor = { x: 0, y: 0 };
let drawing = null;

/** Resolves to {blob, strokes}, the mask in white on black, or to null when nothing came of it. */
export async function paintMask(picture, before) {
  const scale = Math.min(1, LONGEST / Math.max(picture.width, picture.height));
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  cursor = { x: canvas.width / 2, y: canvas.height / 2 };
  strokes = [...before];
  byId("easel").style.setProperty("--aspect", picture.width / picture.height);
  show(byId("easel-image"), picture.blob);
  redraw();
  dialog.returnValue = "";
  dialog.showModal();
  byId("easel-canvas").focus();
  placeBrush();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  if (dialog.returnValue !== "done" || !strokes.some((stroke) => !stroke.erase)) return null;
  return { blob: await inBlackAndWhite(), strokes };
}

byId("mask-done").addEventListener("click", () => dialog.close("done"));
byId("mask-cancel").addEventListener("click", () => dialog.close());
byId("mask-undo").addEventListener("click", () => change(strokes.slice(0, -1)));
byId("mask-clear").addEventListener("click", () => change([]));
byId("mask-invert").addEventListener("click", () => change([...strokes, { invert: true }]));
size.addEventListener("input", placeBrush);

canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  event.preventDefault();
  canvas.focus({ preventScroll: true });
  canvas.setPointerCapture(event.pointerId);
  begin(at(event));
});
canvas.addEventListener("pointermove", (event) => {
  cursor = at(event);
  placeBrush();
  if (drawing) for (const one of event.getCoalescedEvents?.() ?? [event]) goOn(at(one));
});
for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (drawing = null));

canvas.addEventListener("keydown", (event) => {
  const step = Math.max(1, width() / (event.shiftKey ? 1 : 3));
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  if (event.key in moves) {
    const [x, y] = moves[event.key];
    cursor = {
      x: Math.min(canvas.width, Math.max(0, cursor.x + x)),
      y: Math.min(canvas.height, Math.max(0, cursor.y + y)),
    };
    if (drawing) goOn(cursor);
  } else if (event.key === " ") {
    if (!drawing) begin(cursor);
  } else if (event.key === "+" || event.key === "-") size.value = Number(size.value) + (event.key === "+" ? 2 : -2);
  else if (event.key === "z" && (event.ctrlKey || event.metaKey)) change(strokes.slice(0, -1));
  else return;
  event.preventDefault();
  placeBrush();
});
canvas.addEventListener("keyup", (event) => {
  if (event.key === " ") drawing = null;
});

/** The brush's width in the mask's pixels; it is chosen as a share of the picture. */
function width() {
  return (Number(size.value) / 100) * Math.max(canvas.width, canvas.height);
}

function at(event) {
  const box = canvas.getBoundingClientRect();
  return {
    x: ((event.clientX - box.left) / box.width) * canvas.width,
    y: ((event.clientY - box.top) / box.height) * canvas.height,
  };
}

function begin(point) {
  drawing = { width: width(), erase: byId("erase").checked, points: [point] };
  strokes.push(drawing);
  draw(drawing);
}

function goOn(point) {
  drawing.points.push(point);
  draw({ ...drawing, points: drawing.points.slice(-2) });
}

function change(newStrokes) {
  strokes = newStrokes;
  drawing = null;
  redraw();
}

function redraw() {
  context.clearRect(0, 0, canvas.width, canvas.height);
  strokes.forEach(draw);
}

function draw(stroke) {
  context.save();
  if (stroke.invert) {
    context.globalCompositeOperation = "xor";
    context.fillStyle = COLOUR;
    context.fillRect(0, 0, canvas.width, canvas.height);
  } else {
    const [first, ...rest] = stroke.points;
    context.globalCompositeOperation = stroke.erase ? "destination-out" : "source-over";
    Object.assign(context, { strokeStyle: COLOUR, lineWidth: stroke.width, lineCap: "round", lineJoin: "round" });
    context.beginPath();
    context.moveTo(first.x, first.y);
    for (const { x, y } of rest.length ? rest : [first]) context.lineTo(x, y);
    context.stroke();
  }
  context.restore();
}

function placeBrush() {
  const shown = canvas.clientWidth / canvas.width;
  Object.assign(brush.style, {
    left: `${cursor.x * shown}px`,
    top: `${cursor.y * shown}px`,
    width: `${width() * shown}px`,
    height: `${width() * shown}px`,
  });
}

async function inBlackAndWhite() {
  const mask = new OffscreenCanvas(canvas.width, canvas.height);
  const drawn = mask.getContext("2d");
  drawn.drawImage(canvas, 0, 0);
  drawn.globalCompositeOperation = "source-in";
  drawn.fillStyle = "#fff";
  drawn.fillRect(0, 0, mask.width, mask.height);
  drawn.globalCompositeOperation = "destination-over";
  drawn.fillStyle = "#000";
  drawn.fillRect(0, 0, mask.width, mask.height);
  return await mask.convertToBlob({ type: "image/png" });
}
