/* hone.js: thumbs, a comment box and "the right answer" under any answer of a page.
 *
 *   <script src="https://gateway/hone.js" defer></script>
 *   <div data-hone-completion="chatcmpl-..." data-hone-token="..."></div>  now or later; or hone.attach, which returns { detach }
 *
 * It sends the answer's feedback token: no key, no cookie, nothing of the page. A vote shows at once; one that could not be
 * saved goes back, and a sentence says why. Colours and font are the page's. It needs no inline script or style.
 */
(() => {
  "use strict";
  if (window.hone?.attach) return; // No element's id.
  const script = document.currentScript;
  const HOME = script && script.src ? new URL(script.src).origin : location.origin;
  const TEXTS = {
    group: "Rate this answer", up: "Good answer", down: "Bad answer", more: "Comment or correct",
    comment: "What was good or wrong?", correction: "The right answer", send: "Send", close: "Close",
    voted: "Thanks, your vote is saved.", undone: "Your vote is taken back.", sent: "Thanks, that is saved.",
    empty: "Write something first.", failed: "Not saved: ", retry: "Try again",
    offline: "the service did not answer.",
  };
  const CSS = `
  :host { all: initial; display: block; font: inherit; color: inherit;
  --line: color-mix(in srgb, currentColor 55%, transparent) }
  * { box-sizing: border-box; font: inherit; color: inherit; color-scheme: inherit }
  [hidden] { display: none !important }
  .row { display: flex; flex-wrap: wrap; align-items: center; gap: .25em }
  button { background: none; border: 1px solid transparent; border-radius: .5em; min-width: 2em; min-height: 2em;
  padding: .3em .5em; cursor: pointer; transition: opacity .15s }
  button.icon { padding: .3em; opacity: .75 }
  button:hover { background: color-mix(in srgb, currentColor 12%, transparent); opacity: 1 }
  :focus-visible { outline: 2px solid currentColor; outline-offset: 2px }
  button[aria-pressed=true] { opacity: 1; background: color-mix(in srgb, currentColor 14%, transparent) }
  button[aria-pressed=true] path { fill: currentColor }
  button.edge { border-color: var(--line) }
  svg { display: block; width: 1.3em; height: 1.3em; margin: auto; fill: none; stroke: currentColor; stroke-width: 1.7 }
  .down svg { transform: rotate(180deg) }
  p { margin: 0; padding: .3em; font-size: .9em }
  p:empty { padding: 0 }
  form { display: grid; gap: .6em; margin-top: .4em; max-width: 40em }
  label { display: grid; gap: .25em; font-size: .9em }
  textarea { background: transparent; border: 1px solid var(--line);
  border-radius: .5em; padding: .5em; width: 100%; resize: vertical }
  @media (prefers-reduced-motion: reduce) { button { transition: none } }`;
  const THUMB = "M7 10.5v9H4.5a1 1 0 0 1-1-1v-7a1 1 0 0 1 1-1zm0 0 3.6-7a2 2 0 0 1 2 2V9h5.6a2 2 0 0 1 2 2.4l-1.3 6.5" +
    "a2 2 0 0 1-2 1.6H7";
  const SVG = "http://www.w3.org/2000/svg";
  let sheet;

  function make(name, attributes, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function thumb(name, label) {
    const svg = document.createElementNS(SVG, "svg"), path = document.createElementNS(SVG, "path");
    svg.setAttribute("viewBox", "0 0 24 24");
    svg.setAttribute("aria-hidden", "true");
    path.setAttribute("d", THUMB);
    svg.append(path);
    return make("button", { type: "button", class: `icon ${name}`, "aria-pressed": "false", "aria-label": label, title: label }, svg);
  }

  function remembered(key, value) {
    // Storage may be forbidden: then a reloaded page shows no vote.
    try {
      if (value === undefined) return JSON.parse(sessionStorage.getItem(key)) || { value: null, id: null };
      sessionStorage.setItem(key, JSON.stringify(value));
    } catch { return { value: null, id: null }; }
  }

  function attach(element, options) {
    const { token, completionId } = options || {};
    if (!(element instanceof Element) || !token || !completionId)
      throw new TypeError("hone.attach(element, { token, completionId }): one is missing.");
    const texts = { ...TEXTS, ...options.texts }, url = (options.url || HOME).replace(/\/+$/, "");
    const host = make("div", { "data-hone": "" }), root = host.attachShadow({ mode: "open" });
    if (!sheet) (sheet = new CSSStyleSheet()).replaceSync(CSS);
    root.adoptedStyleSheets = [sheet];

    const up = thumb("up", texts.up), down = thumb("down", texts.down);
    const text = () => make("textarea", { maxlength: "65536" }), comment = text(), correction = text();
    const more = make("button", { type: "button", "aria-expanded": "false", "aria-controls": "form" }, texts.more);
    const status = make("p", { role: "status" });
    const retry = make("button", { type: "button", class: "edge", hidden: "" }, texts.retry);
    const send = make("button", { class: "edge" }, texts.send), close = make("button", { type: "button" }, texts.close);
    const form = make("form", { id: "form", hidden: "" }, make("label", {}, texts.comment, comment),
      make("label", {}, texts.correction, correction), make("div", { class: "row" }, send, close));
    root.append(make("div", { class: "row", role: "group", "aria-label": texts.group }, up, down, more, status, retry), form);

    const place = `hone:${completionId}`;
    let saved = remembered(place), wanted = saved.value, busy = false, attempt = null;

    function show() {
      up.setAttribute("aria-pressed", wanted === true);
      down.setAttribute("aria-pressed", wanted === false);
    }
    function say(text, retryWith = null) {
      status.textContent = text;
      retry.onclick = retryWith;
      retry.hidden = !retryWith;
    }
    function fail(error, retryWith) {
      say(texts.failed + error.message, retryWith);
      tell("failed", { message: error.message });
    }
    function tell(name, detail) {
      element.dispatchEvent(new CustomEvent(`hone:${name}`, { bubbles: true, detail: { completionId, ...detail } }));
    }

    async function call(method, path, body) {
      const headers = { "Content-Type": "application/json", "x-hone-feedback-token": token };
      const answer = await fetch(url + path, { method, headers, body: body && JSON.stringify(body), credentials: "omit",
        signal: AbortSignal.timeout(15000) }).catch(() => { throw new Error(texts.offline); });
      const said = await answer.json().catch(() => ({}));
      if (!answer.ok) throw new Error(said.error?.message || `${answer.status} ${answer.statusText}`.trim());
      return said;
    }

    async function saveVote(value) {
      if (value === null) {
        if (saved.id) await call("DELETE", `/v1/feedback/${encodeURIComponent(saved.id)}`);
        return null;
      }
      // The same id for a second try: a vote that arrived, while its answer was lost, counts once.
      if (!attempt || attempt.value !== value) attempt = { value, id: unique() };
      const { feedback_id } = await call("POST", "/v1/feedback", { completion_id: completionId, ...attempt });
      attempt = null;
      return feedback_id;
    }

    // One request at a time, always toward the newest wish: quick clicks cannot overtake each other.
    async function vote(value) {
      wanted = value;
      show();
      say("");
      if (busy) return;
      busy = true;
      try {
        while (wanted !== saved.value) {
          const next = wanted;
          saved = { id: await saveVote(next), value: next };
          remembered(place, saved);
          tell("vote", { value: next });
        }
        say(saved.value === null ? texts.undone : texts.voted);
      } catch (error) {
        const lost = wanted;
        wanted = saved.value;
        show();
        fail(error, () => vote(lost));
      } finally {
        busy = false;
      }
    }

    async function submit(id) {
      const body = { completion_id: completionId, id };
      if (comment.value.trim()) body.comment = comment.value;
      if (correction.value.trim()) body.correction = correction.value;
      if (!body.comment && !body.correction) {
        say(texts.empty);
        return comment.focus();
      }
      send.disabled = true;
      try {
        await call("POST", "/v1/feedback", body);
        form.reset();
        open(false);
        say(texts.sent);
        tell("said", body);
      } catch (error) {
        fail(error, () => submit(id));
      } finally {
        send.disabled = false;
      }
    }

    function open(yes) {
      form.hidden = !yes;
      more.setAttribute("aria-expanded", yes);
      (yes ? comment : more).focus();
      form.scrollIntoView({ block: "nearest" });
    }

    up.onclick = () => vote(wanted === true ? null : true);
    down.onclick = () => vote(wanted === false ? null : false);
    more.onclick = () => open(form.hidden);
    close.onclick = () => open(false);
    form.onsubmit = (event) => { event.preventDefault(); submit(unique()); };
    form.onkeydown = (event) => {
      if (event.key === "Escape") open(false);
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    };
    show();
    element.append(host);
    return { detach: () => host.remove() };
  }

  function unique() {
    return "hone-js-" + Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join("-");
  }

  const attached = new WeakMap();

  function find() {
    for (const element of document.querySelectorAll("[data-hone-completion][data-hone-token]")) {
      const { honeToken: token, honeCompletion: completionId, honeUrl: url } = element.dataset, last = attached.get(element);
      if (last?.token === token && last.completionId === completionId) continue;
      last?.detach?.(); // Another answer is here: old thumbs would rate it.
      const thumbs = token && completionId && attach(element, { token, completionId, url });
      attached.set(element, { token, completionId, ...thumbs });
    }
  }

  window.hone = Object.freeze({ attach });
  find();
  new MutationObserver(find).observe(document.documentElement,
    { childList: true, subtree: true, attributeFilter: ["data-hone-token", "data-hone-completion"] });
})();
