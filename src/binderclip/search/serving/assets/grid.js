// The pictures that were found, and moving among them with the keyboard.

import { thumbnail } from "./api.js";
import { make } from "./make.js";

const list = document.getElementById("results");
export const hits = [];

export function match(hit) {
  if (hit.score === null) return "";
  if (hit.probability === null) return hit.score.toFixed(3);
  return hit.probability < 0.01 ? "< 1 %" : `${Math.round(100 * hit.probability)} %`;
}

const clock = (time) => `${Math.floor(time / 60)}:${String(Math.floor(time % 60)).padStart(2, "0")}`;

export function clear() {
  hits.length = 0;
  list.replaceChildren();
}

export function add(more, act) {
  const before = hits.length;
  hits.push(...more);
  list.append(...more.map((hit, i) => card(hit, before + i, act)));
  rove(Math.max(0, [...list.children].findIndex((one) => one.querySelector(".open").tabIndex === 0)));
}

function card(hit, at, act) {
  const ratio = Math.min(Math.max(hit.width / hit.height || 1, 0.5), 2.6);
  const image = make("img", { src: thumbnail(hit, 320), alt: "", loading: at < 12 ? "eager" : "lazy", decoding: "async", className: "late" });
  image.onload = () => image.classList.remove("late");
  image.onerror = () => image.replaceWith(make("span", { className: "lost", textContent: "The file is gone or has changed" }));
  const open = make("button", { type: "button", className: "open", tabIndex: -1, onclick: () => act("open", at) }, image);
  const found = match(hit);
  open.setAttribute("aria-label", found ? `${hit.name}, match ${found}` : hit.name);
  const button = (what, sign, label) => {
    const one = make("button", { type: "button", textContent: sign, title: label, tabIndex: -1, onclick: () => act(what, at) });
    one.setAttribute("aria-label", `${label}: ${hit.name}`);
    return one;
  };
  const acts = make("div", { className: "acts" }, button("similar", "≈", "Similar pictures"), button("plus", "+", "More like this"), button("minus", "−", "Less like this"));
  const line = make("div", { className: "line" }, make("span", { className: "label", textContent: hit.name, title: hit.path }));
  if (found) line.append(make("span", { className: "score", textContent: found, title: `cosine ${hit.score.toFixed(3)}` }));
  const item = make("li", { className: "shot" }, open, acts, line);
  if (hit.folded.length) item.append(make("span", { className: "pile", textContent: `+${hit.folded.length}`, title: `${hit.folded.length} more like it` }));
  if (hit.time !== null) item.append(make("span", { className: "pile", textContent: clock(hit.time), title: "Where in the video" }));
  item.style.setProperty("--ratio", ratio.toFixed(3));
  return item;
}

// One picture is in the tab order; arrows move it.
function rove(to) {
  [...list.children].forEach((one, i) => {
    for (const button of one.querySelectorAll("button")) button.tabIndex = i === to ? 0 : -1;
  });
}

export function current() {
  const item = document.activeElement?.closest?.(".shot");
  return item ? [...list.children].indexOf(item) : -1;
}

export function focus(at) {
  const item = list.children[at];
  if (!item) return;
  rove(at);
  item.querySelector(".open").focus();
  item.scrollIntoView({ block: "nearest" });
}

export function move(key) {
  const at = current();
  if (at < 0) return focus(0);
  if (key === "ArrowLeft" || key === "ArrowRight") return focus(at + (key === "ArrowRight" ? 1 : -1));
  // Rows are of unlike widths: the nearest picture in the next row up or down.
  const boxes = [...list.children].map((one) => one.getBoundingClientRect());
  const here = boxes[at], down = key === "ArrowDown";
  const tops = boxes.map((box) => box.top).filter((top) => (down ? top > here.top + 1 : top < here.top - 1));
  if (!tops.length) return undefined;
  const row = down ? Math.min(...tops) : Math.max(...tops);
  const middle = here.left + here.width / 2;
  let best = -1, least = Infinity;
  boxes.forEach((box, i) => {
    const far = Math.abs(box.left + box.width / 2 - middle);
    if (Math.abs(box.top - row) < 1 && far < least) [best, least] = [i, far];
  });
  return focus(best);
}
