// The search page: what is typed, dropped or chosen becomes one request; the answer becomes pictures.

import { ask, thumbnail } from "./api.js";
import { add, clear, current, focus, hits, move } from "./grid.js";
import { takePictures } from "./intake.js";
import { make } from "./make.js";
import { body, fromAddress, isEmpty, query, toAddress } from "./query.js";
import * as viewer from "./viewer.js";

const PAGE = 48;
const TYPING = 120; // milliseconds of rest after which a search is sent
const $ = (id) => document.getElementById(id);
let running = null, answered = Promise.resolve(), next = null, model = null, timer = 0;

async function search({ replace = false } = {}) {
  clearTimeout(timer);
  toAddress(replace);
  drawParts();
  await (answered = load(0));
}

async function load(offset) {
  running?.abort();
  const mine = (running = new AbortController());
  $("results").classList.toggle("old", offset === 0);
  $("results").setAttribute("aria-busy", "true");
  try {
    const answer = await ask("v1/search", body(offset, PAGE), mine.signal);
    if (offset === 0) clear();
    add(answer.data, act);
    next = answer.next_offset;
    tell();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (offset === 0) clear();
    next = null;
    nothing("That did not work", error.message);
  } finally {
    if (running === mine) {
      $("results").classList.remove("old");
      $("results").removeAttribute("aria-busy");
      $("more").hidden = next === null;
    }
  }
}

function tell() {
  const total = model?.index?.files;
  const count = hits.length.toLocaleString();
  $("empty").hidden = true;
  $("status").classList.remove("hidden");
  if (!hits.length) return nothing("Nothing matches", isEmpty() ? "No picture passes the filters." : "Try other words, or fewer filters.");
  const filtered = Object.keys(query.filters).some((key) => key !== "all");
  const known = total && total > hits.length && !filtered ? ` of ${total.toLocaleString()}` : next === null ? "" : " and more";
  $("status").textContent = `${count}${known} pictures${filtered ? ", filtered" : ""}${isEmpty() ? "" : ", best first"}`;
  return undefined;
}

function nothing(title, text) {
  $("status").textContent = `${title}. ${text}`;
  $("status").classList.add("hidden"); // it is read out; what is seen stands below
  $("empty").hidden = false;
  const again = make("a", { className: "soft", href: document.baseURI.split("?")[0], textContent: "Start over" });
  $("empty").replaceChildren(make("h2", { textContent: title }), make("p", { textContent: text }), again);
}

function act(what, at) {
  const hit = hits[at];
  if (!hit) return;
  if (what === "open") return viewer.show(at, Boolean(model?.index?.originals));
  viewer.close();
  const part = { sign: what === "minus" ? -1 : 1, id: hit.id, name: hit.name };
  if (what === "similar") {
    query.text = $("text").value = "";
    query.parts = [part];
  } else {
    query.parts = [...query.parts.filter((one) => one.id !== hit.id), part];
  }
  scrollTo({ top: 0 });
  search().then(() => focus(0));
}

function drawParts() {
  $("parts").hidden = !query.parts.length;
  $("parts").replaceChildren(...query.parts.map((part) => {
    const image = make("img", { src: part.image ?? thumbnail(part, 320), alt: "" });
    const change = (job) => () => (job(), search(), $("text").focus());
    const sign = make("button", { type: "button", className: "sign", textContent: part.sign > 0 ? "+" : "−", title: "Switch between more and less", onclick: change(() => (part.sign *= -1)) });
    sign.setAttribute("aria-label", `${part.sign > 0 ? "More" : "Less"} like ${part.name}: switch`);
    const gone = make("button", { type: "button", className: "gone", textContent: "✕", onclick: change(() => (query.parts = query.parts.filter((one) => one !== part))) });
    gone.setAttribute("aria-label", `Take ${part.name} out of the search`);
    return make("li", { className: part.sign > 0 ? "plus" : "minus" }, image, make("span", { className: "what", textContent: part.sign > 0 ? "more like this" : "less like this" }), sign, gone);
  }));
}

function drawFilters() {
  for (const field of $("filters").elements) {
    if (field.type === "checkbox") field.checked = Boolean(query.filters[field.name]);
    else if (field.name) field.value = query.filters[field.name] ?? "";
  }
  const count = Object.keys(query.filters).length;
  $("filter-count").hidden = !count;
  $("filter-count").textContent = count;
}

function openFilters(open) {
  $("filters").hidden = !open;
  $("filter").setAttribute("aria-expanded", String(open));
  if (open) $("filters").elements.path.focus();
}

function soon(options) {
  clearTimeout(timer);
  $("results").setAttribute("aria-busy", "true"); // what is shown is no longer the answer
  timer = setTimeout(() => search(options), TYPING);
}

$("text").addEventListener("input", () => {
  query.text = $("text").value;
  soon({ replace: true });
});
$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});
$("filter").onclick = () => openFilters($("filters").hidden);
$("filters").addEventListener("input", () => {
  query.filters = Object.fromEntries([...new FormData($("filters"))].filter(([, value]) => value));
  drawFilters();
  soon({ replace: true });
});
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("filters").addEventListener("reset", (event) => {
  event.preventDefault();
  query.filters = {};
  drawFilters();
  search();
});
$("more").onclick = () => next !== null && load(next);
new IntersectionObserver(([seen]) => seen.isIntersecting && !$("more").hidden && !$("results").hasAttribute("aria-busy") && $("more").click(), { rootMargin: "600px" }).observe($("more"));
$("help").onclick = () => $("keys").showModal();
document.querySelector("[data-close]").onclick = () => $("keys").close();
$("theme").onclick = () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try {
    localStorage.setItem("theme", root.dataset.theme);
  } catch {
    // nothing is kept, and nothing is lost
  }
};
addEventListener("scroll", () => document.querySelector("header").classList.toggle("stuck", scrollY > 4), { passive: true });
addEventListener("popstate", () => start());
addEventListener("keydown", (event) => {
  const typing = event.target.matches?.("input, select, textarea");
  if (event.ctrlKey || event.metaKey || event.altKey || $("key").open || $("keys").open) return;
  if (event.key === "Escape" && !typing && viewer.shown() < 0 && !isEmpty()) return location.assign(document.baseURI.split("?")[0]);
  if (event.key === "ArrowDown" && event.target === $("text")) return event.preventDefault(), focus(0);
  if (typing) return;
  const at = viewer.shown() >= 0 ? viewer.shown() : current();
  const does = { s: "similar", "+": "plus", "=": "plus", "-": "minus" }[event.key];
  if (does && at >= 0) act(does, at);
  else if (viewer.shown() >= 0) return;
  else if (event.key === "/") $("text").focus();
  else if (event.key === "f") openFilters($("filters").hidden);
  else if (event.key === "?") $("keys").showModal();
  else if (event.key.startsWith("Arrow") && current() >= 0) move(event.key);
  else return;
  event.preventDefault();
});
takePictures((part) => {
  query.parts = [...query.parts, part];
  search();
}, (message) => answered.then(() => nothing("No picture", message))); // an answer on its way would wipe it out
viewer.prepare(act, () => Boolean(model?.index?.originals));

function start() {
  fromAddress();
  $("text").value = query.text;
  drawFilters();
  return search({ replace: true });
}

ask("v1/models").then((answer) => {
  [model] = answer.data;
  if (hits.length) tell();
}).catch(() => {});
start();
