// How the server is asked, and how what it refuses is told.

const KEY = "visage.key";

/** What the server said no to: its sentence is for people. */
export class Refused extends Error {
  constructor(code, message, number = "") {
    super(message);
    this.code = code;
    this.number = number;
  }
}

// Of this tab only: sessionStorage goes when it is closed.
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** Ask; `form` is sent as a form, `json` as JSON. Paths are relative: the page may lie anywhere. */
export async function send(path, { method = "GET", form, json, headers = {}, signal } = {}) {
  const all = { ...headers };
  if (key.get()) all.authorization = `Bearer ${key.get()}`;
  if (json !== undefined) all["content-type"] = "application/json";
  const body = form ?? (json === undefined ? undefined : JSON.stringify(json));
  let answer;
  try {
    answer = await fetch(path, { method, headers: all, body, signal, credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("unreachable", "The server does not answer. Is it still running?");
  }
  if (!answer.ok) throw refusal(await answer.json().catch(() => null), answer.status);
  return answer;
}

/** Ask, and read the answer as JSON. */
export async function ask(path, options) {
  return (await send(path, options)).json();
}

/** Ask, and yield the answer's server-sent events as {type, data}. */
export async function* follow(path, options) {
  const reader = (await send(path, options)).body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      held += value;
      const blocks = held.replaceAll("\r\n", "\n").split("\n\n");
      held = blocks.pop();
      for (const block of blocks) {
        const event = parsed(block);
        if (event?.type === "error") throw refusal(event.data, 500);
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parsed(block) {
  const lines = block.split("\n");
  const of = (name) =>
    lines.filter((l) => l.startsWith(`${name}:`)).map((l) => l.slice(name.length + 1).trimStart());
  const data = of("data").join("\n");
  return data ? { type: of("event")[0] ?? "message", data: JSON.parse(data) } : null; // a comment
}

function refusal(body, status) {
  const { code, message } = body?.error ?? {};
  if (!message) return new Refused("internal", `The server answered ${status} and no reason.`);
  // The server's sentence is for programs, which send headers.
  const words = code === "missing_key" ? "This server asks for an API key." : message;
  const no = new Refused(code, words, body.request_id);
  if (status === 401) document.dispatchEvent(new CustomEvent("key-wanted", { detail: no }));
  return no;
}
