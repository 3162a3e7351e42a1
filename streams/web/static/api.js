// Asks the page's server. A token, if one is needed, stays in this tab and travels in a header.

const KEY = "kubeweir-token";
const CUT = "The connection to the page's server has ended.";

export const token = {
  get: () => sessionStorage.getItem(KEY) || "",
  set: (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY)),
};

/** Why a request was not answered: the text is for people, `field` is the parameter that is wrong. */
export class Refused extends Error {
  constructor(status, text, field) {
    super(text);
    this.status = status;
    this.field = field || "";
  }
}

async function ask(path, options = {}) {
  const headers = token.get() ? { authorization: `Bearer ${token.get()}` } : {};
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The page's server does not answer.");
  }
  if (answer.ok) return answer;
  let said = {};
  try {
    said = await answer.json();
  } catch {
    // A proxy has answered.
  }
  throw new Refused(answer.status, said.error || `The server answers with ${answer.status}.`, said.field);
}

/** Ask with a text that is too long for an address. */
export const post = (path, body, options) => get(path, { ...options, method: "POST", body });

export async function get(path, options) {
  const answer = await ask(path, options);
  try {
    return await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, CUT);
  }
}

/** Read server-sent events until the stream ends: calls `take(name, data)`. EventSource can send no token. */
export async function stream(path, take, signal) {
  const answer = await ask(path, { signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    let value, done;
    try {
      ({ value, done } = await reader.read());
    } catch (error) {
      if (signal.aborted) throw error;
      throw new Refused(0, CUT);
    }
    if (done) return;
    text += value;
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      const lines = text.slice(0, end).split("\n");
      text = text.slice(end + 2);
      const name = lines.find((line) => line.startsWith("event: "));
      const data = lines.find((line) => line.startsWith("data: "));
      if (name && data) take(name.slice(7), JSON.parse(data.slice(6)));
    }
  }
}
