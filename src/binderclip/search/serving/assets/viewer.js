// One picture, large, with what is known of it.

import { original, thumbnail } from "./api.js";
import { focus, hits, match } from "./grid.js";
import { make } from "./make.js";

const dialog = document.getElementById("viewer");
const image = document.getElementById("large");
let at = -1;

export const shown = () => (dialog.open ? at : -1);

export function show(to, originals) {
  const hit = hits[to];
  if (!hit) return;
  at = to;
  image.src = thumbnail(hit, 1600);
  image.alt = hit.name;
  document.getElementById("name").textContent = hit.name;
  document.getElementById("details").replaceChildren(...facts(hit).flatMap(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: value })]));
  const link = document.getElementById("original");
  link.hidden = !originals;
  link.href = original(hit);
  dialog.querySelector('[data-step="-1"]').disabled = to === 0;
  dialog.querySelector('[data-step="1"]').disabled = to === hits.length - 1;
  if (!dialog.open) dialog.showModal();
}

function facts(hit) {
  const folder = hit.path.split("/").slice(0, -1).join("/");
  const date = new Date(hit.taken ?? hit.mtime * 1000);
  const when = Number.isNaN(date.getTime()) ? "" : date.toLocaleDateString(undefined, { dateStyle: "medium" });
  const rows = [["Folder", folder], [hit.taken ? "Taken" : "Changed", when], ["Size", `${hit.width} × ${hit.height}, ${bytes(hit.size)}`], ["At", hit.time === null ? "" : `${Math.round(hit.time)} s`], ["Match", match(hit)]];
  if (hit.folded.length) rows.push(["Like it", hit.folded.slice(0, 6).join(", ")]);
  return rows.filter(([, value]) => value);
}

function bytes(count) {
  if (count >= 1e6) return `${(count / 1e6).toFixed(1)} MB`;
  return `${Math.max(1, Math.round(count / 1e3))} KB`;
}

export function prepare(act, originals) {
  const step = (by) => show(Math.min(Math.max(at + by, 0), hits.length - 1), originals());
  dialog.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.dataset.step) step(Number(button.dataset.step));
    else if (button?.dataset.act) act(button.dataset.act, at);
    else if (button?.classList.contains("shut")) dialog.close();
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      event.preventDefault();
      step(event.key === "ArrowRight" ? 1 : -1);
    }
  });
  dialog.addEventListener("close", () => {
    image.removeAttribute("src");
    focus(at);
  });
}

export const close = () => dialog.open && dialog.close();
