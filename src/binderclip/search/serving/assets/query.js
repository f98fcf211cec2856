// What is asked for: the text, parts to move towards and away from, filters. It lives in the address, so that it can be
// gone back to and passed on; only pictures of the reader's own stay out of it.

export const query = { text: "", parts: [], filters: {} };

// A part: { sign: 1 | -1, id, name } for a picture of the index, { sign, image, name } for one of the reader's own.

export function fromAddress() {
  const given = new URLSearchParams(location.search);
  query.text = given.get("q") ?? "";
  const named = (key, sign) => given.getAll(key).filter((id) => /^[0-9a-f]{32}$/.test(id)).map((id) => ({ sign, id, name: "picture" }));
  const own = query.parts.filter((part) => part.image && history.state?.own);
  query.parts = [...named("like", 1), ...named("unlike", -1), ...own];
  query.filters = Object.fromEntries(["path", "from", "to", "type", "width", "all"].filter((key) => given.get(key)).map((key) => [key, given.get(key)]));
}

export function toAddress(replace) {
  const now = new URLSearchParams();
  if (query.text.trim()) now.set("q", query.text.trim());
  for (const part of query.parts) if (part.id) now.append(part.sign > 0 ? "like" : "unlike", part.id);
  for (const [key, value] of Object.entries(query.filters)) now.set(key, value);
  const text = now.toString();
  const address = location.pathname + (text ? `?${text}` : "");
  const state = { own: query.parts.some((part) => part.image) };
  if (replace || address === location.pathname + location.search) history.replaceState(state, "", address);
  else history.pushState(state, "", address);
}

// "cat - snow + night" as people write it: a lone sign begins another part.
export function written(text) {
  const plus = [], minus = [];
  let into = plus, words = [];
  const end = () => {
    if (words.length) into.push(words.join(" "));
    words = [];
  };
  for (const word of text.trim().split(/\s+/)) {
    if (word === "+" || word === "-" || word === "−") {
      end();
      into = word === "+" ? plus : minus;
    } else if (word) words.push(word);
  }
  end();
  return { plus, minus };
}

export function body(offset, limit) {
  const { plus, minus } = written(query.text);
  const named = (sign) => query.parts.filter((part) => part.sign === sign).map((part) => (part.id ? { id: part.id } : { image: part.image }));
  const asked = { plus: [...plus.map((text) => ({ text })), ...named(1)], minus: [...minus.map((text) => ({ text })), ...named(-1)], offset, limit };
  const filter = conditions(query.filters);
  if (filter) asked.where = filter;
  if (query.filters.all) asked.fold = null;
  return asked;
}

const quoted = (text) => (text.includes('"') ? `'${text.replaceAll("'", "")}'` : `"${text}"`);

function conditions({ path, from, to, type, width }) {
  const parts = [];
  if (path?.trim()) parts.push(`path~${quoted(path.trim())}`);
  if (from) parts.push(`date>=${from}`);
  if (to) parts.push(`date<=${to}`);
  if (type) parts.push({ jpg: "(type=jpg or type=jpeg)", tif: "(type=tif or type=tiff)" }[type] ?? `type=${type}`);
  if (Number(width) > 0) parts.push(`width>=${Math.round(Number(width))}`);
  return parts.join(" and ");
}

export const isEmpty = () => !query.text.trim() && !query.parts.length;
