// Talking to the server that sent this page. A key, where one is asked for, is turned into a cookie and then forgotten.

export class Failure extends Error {}

const where = (path) => new URL(path, document.baseURI);

export async function ask(path, body, signal) {
  for (;;) {
    const answer = await send(path, body, signal);
    if (answer.status !== 401) return read(answer);
    await askForKey();
  }
}

async function send(path, body, signal) {
  const options = { signal, credentials: "same-origin" };
  if (body) Object.assign(options, { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
  try {
    return await fetch(where(path), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server does not answer. It may have been stopped.");
  }
}

async function read(answer) {
  const value = await answer.json().catch(() => ({}));
  if (answer.ok) return value;
  throw new Failure(value.error?.message ?? `The server answered ${answer.status}.`);
}

let asking = null;

function askForKey() {
  asking ??= new Promise((done) => {
    const dialog = document.getElementById("key");
    const field = document.getElementById("key-text");
    const told = document.getElementById("key-error");
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.querySelector("form").onsubmit = async (event) => {
      event.preventDefault();
      const headers = { Authorization: `Bearer ${field.value.trim()}` };
      const answer = await fetch(where("v1/session"), { method: "POST", headers }).catch(() => null);
      told.textContent = answer?.ok ? "" : "That key is not right.";
      if (!answer?.ok) return;
      field.value = "";
      dialog.close();
      asking = null;
      done();
    };
    dialog.showModal();
  });
  return asking;
}

export function thumbnail(hit, size) {
  const moment = hit.time === null || hit.time === undefined ? "" : `&time=${hit.time}`;
  return where(`v1/files/${hit.id}/thumbnail?size=${size}${moment}`).href;
}

export const original = (hit) => where(`v1/files/${hit.id}`).href;
