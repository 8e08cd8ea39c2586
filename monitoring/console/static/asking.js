/* Shows answers as they come, where a form with data-asks asks for them. Without it the same form loads the whole page.
 *
 * Texts are put in as text; what is put in as a piece of the page was escaped by the console.
 */
"use strict";
(() => {
  const form = document.querySelector("form[data-asks]");
  if (!form) return;
  const part = (name) => form.querySelector(`[data-${name}]`);
  const box = form.elements.namedItem("question");
  let stop = null;

  async function* events(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (let next; !(next = await reader.read()).done;) {
      const parts = (rest + next.value).split("\n\n");
      rest = parts.pop();
      for (const one of parts) {
        const name = /^event: (.*)$/m.exec(one), data = /^data: (.*)$/m.exec(one);
        if (name && data) yield [name[1], JSON.parse(data[1])];
      }
    }
  }

  function fail(message) {
    const place = part("failed");
    place.textContent = place.textContent ? `${place.textContent} ${message}` : message;
    place.hidden = false;
  }

  function begin(question) {
    part("failed").hidden = true;
    part("failed").textContent = "";
    if (!form.matches("[data-turns]")) {
      document.querySelector("[data-rows]").replaceChildren();
      return;
    }
    const turn = document.querySelector("template").content.cloneNode(true);
    turn.querySelector(".asked").textContent = question;
    document.querySelector("[data-hint]")?.remove();
    document.getElementById("turns").append(turn);
    document.getElementById("turns").lastElementChild.scrollIntoView({ block: "nearest" });
    box.value = "";
  }

  const meets = {
    text: ({ side, text }) => document.querySelector(`#turns > :last-child [data-side="${side}"]`)?.append(text),
    row: ({ html }) => document.querySelector("[data-rows]").insertAdjacentHTML("beforeend", html),
    failed: ({ message }) => fail(message),
    progress: ({ done, of }) => {
      const place = part("progress");
      place.hidden = done === of;
      place.querySelector("progress").max = of;
      place.querySelector("progress").value = done;
      place.querySelector("p").textContent = `${done} of ${of} questions answered by both`;
    },
    done: async () => {
      if (!form.matches("[data-turns]")) return;
      const asked = new URLSearchParams(new FormData(form));
      const query = new URLSearchParams(["model", "left", "right", "session"].map((name) => [name, asked.get(name)]));
      history.replaceState(null, "", `?${query}`);
      const page = new DOMParser().parseFromString(await (await fetch(location.href)).text(), "text/html");
      const turns = page.getElementById("turns"), here = document.getElementById("turns");
      // The record may still lack the newest answers: what was read must not vanish from the page.
      if (turns && turns.querySelectorAll(".turn").length >= here.querySelectorAll(".turn").length) {
        here.replaceWith(turns);
        htmx.process(turns);
      }
    },
  };

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (stop) return;
    const asked = new URLSearchParams(new FormData(form, event.submitter));
    begin(asked.get("question"));
    stop = new AbortController();
    part("stop").hidden = false;
    try {
      const headers = { accept: "text/event-stream" };
      const answer = await fetch(form.action, { method: "POST", body: asked, headers, signal: stop.signal });
      if (!answer.headers.get("content-type").startsWith("text/event-stream")) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        fail(page.querySelector(".call")?.textContent ?? "The console did not answer. Load the page again.");
        return;
      }
      for await (const [name, data] of events(answer.body)) await meets[name]?.(data);
    } catch (error) {
      if (error.name !== "AbortError") fail("The console went away. Load the page again.");
    } finally {
      stop = null;
      part("stop").hidden = true;
      document.querySelector("[aria-busy]")?.removeAttribute("aria-busy");
      part("progress")?.setAttribute("hidden", "");
      if (form.matches("[data-turns]")) box.focus();
    }
  });
  part("stop").addEventListener("click", () => stop?.abort());
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(form.querySelector(".primary"));
  });
})();
