"use strict";
// Brings the page up to date without a reload, so that focus, selection and scrolling stay where they are.
(() => {
  const root = document.documentElement;
  const seconds = Number(root.dataset.refresh);
  const byId = (page, id) => page.getElementById(id);

  function update(old, fresh) {
    if (!old || !fresh) return;
    if (old.className !== fresh.className) old.className = fresh.className;
    if (old.innerHTML !== fresh.innerHTML) old.replaceChildren(...document.importNode(fresh, true).childNodes);
  }

  function show(next) {
    document.title = next.title;
    document.querySelector("link[rel=icon]").href = next.querySelector("link[rel=icon]").href;
    for (const id of ["state", "sentence", "as-of", "versions"]) update(byId(document, id), byId(next, id));
    const main = byId(document, "main"), fresh = byId(next, "main");
    const ids = (element) => [...element.querySelectorAll("[id]")].map((each) => each.id).join();
    if (ids(main) !== ids(fresh)) update(main, fresh);
    else for (const part of fresh.querySelectorAll("section, :scope > div:not(.columns)")) update(byId(document, part.id), part);
  }

  function complain(text) {
    const silence = byId(document, "silence");
    silence.hidden = !text;
    if (silence.textContent !== text) silence.textContent = text;
    root.classList.toggle("stale", Boolean(text));
  }

  async function refresh() {
    const selecting = !getSelection().isCollapsed;
    if (document.hidden || selecting) return;
    try {
      const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(seconds * 1000) });
      if (!answer.ok) throw new Error(`the exporter answered ${answer.status}`);
      show(new DOMParser().parseFromString(await answer.text(), "text/html"));
      complain("");
    } catch (error) {
      const reason = error.message.startsWith("the exporter") ? error.message : "the exporter doesn't answer";
      complain(`Out of date: ${reason}. What you see is ${byId(document, "as-of").textContent.toLowerCase()}.`);
    }
  }

  async function run() {
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
      await refresh();
    }
  }

  document.addEventListener("visibilitychange", refresh);
  run();
})();
